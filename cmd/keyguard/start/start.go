// Package start is a start of the daemon as systemd calls it, as far as there is nothing to do. Where the
// key is known, by a proof or a word of lately, and all of that stands on a disk of this machine, this process
// passes it. Else it starts a worker, this program once more, which does the work in cmd/keyguard, and
// waits for it from outside (law 9).
//
// All of this is done while the program is still being initialised. What the clients of the stores
// do to initialise themselves, descriptors of protobuf and expressions to compile, is half of what a process of this
// program costs, and a start that asks nobody needs none of it. Go initialises a package as soon as those that it
// imports are ready, and of several that could be next the first by its import path
// (https://go.dev/ref/spec#Package_initialization): so this package must not import, by whatever way, those
// clients (agent/escrow/kinds), and TestHealthyStartInitialisesNoStore looks that they are not
// reached. A program that does what has to be done before all else in this way is runc, with nsenter.
package start

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/outside"
)

func init() {
	file, is := outside.IsStart(os.Args)
	if !is || outside.IsWorker() {
		return
	}
	// What goes wrong in here main finds once more, and says.
	if Prepare() != nil {
		return
	}
	// Not in this goroutine, which keeps its thread while packages initialise: each of those that it
	// waits for would be another thread's, and a healthy start a quarter dearer.
	passed := false
	if err := <-crew.Go(func() error { passed = pass(ConfigPath(file)); return nil }); err == nil && passed {
		syscall.Exit(0)
	}
	if code, err := outside.Run(os.Args); err == nil {
		syscall.Exit(code)
	}
}

// Prepare makes this process what all of this program is.
func Prepare() error {
	// A reader that went away must not kill us and hide the exit code: Go dies of
	// SIGPIPE on stdout otherwise (os/signal).
	signal.Ignore(syscall.SIGPIPE)
	// What is made here, locks among it, is for root, and for the watcher and the drill too,
	// which are root without a capability: a shell's umask of 0777 would shut them out. A file
	// that is for others gets its mode by name.
	syscall.Umask(0o077)
	return forbidLeaks()
}

// unasked is an escrow that has only a name here: who has nothing to do asks none. Whoever does so all the
// same panics, and has not passed.
type unasked struct {
	escrow.Reader
	name string
}

func (u unasked) Name() string { return u.name }

// pass passes the key where a start has nothing to do and nothing to say, and tells whether it has.
// It reads no more than that takes, and writes down which key it left for the daemon (NoteLeft), none
// of it on a file system that may hang.
func pass(configPath string) bool {
	cfg, mounts, err := Local(configPath)
	if cfg == nil || err != nil || len(cfg.Escrows) == 0 || !mounts.Local(cfg.Keyfile, cfg.StateDir, cfg.RunDir) {
		return false
	}
	if slices.ContainsFunc(cfg.Escrows, func(e config.Escrow) bool { return e.Wrong != nil }) || !rows.Recorded(DatabaseRecord(cfg), Inherited()) {
		return false
	}
	h := Host(cfg, "")
	for _, e := range cfg.Escrows {
		if cfg.SplitOf(e.Name) == "" { // a part is nothing by itself
			h.Escrows = append(h.Escrows, agent.Escrow{Reader: unasked{name: e.Name}, Required: e.Required})
		}
	}
	f := agent.Healthy(h)
	if f != "" {
		_ = NoteLeft(h, f) // what is not known of it later, status says
	}
	return f != ""
}

// Local is the configuration, and what is mounted here. It is nil where that, or what is
// looked at to read it, does not lie on a disk of this machine: it may hang.
func Local(configPath string) (*config.Config, outside.Mounts, error) {
	path, err := filepath.Abs(configPath)
	if err != nil {
		return nil, nil, err
	}
	mounts, err := outside.ReadMounts()
	if err != nil || !mounts.Local(path) {
		return nil, nil, err
	}
	if err := config.Trust(path); err != nil {
		return nil, nil, err
	}
	text, err := config.Read(path)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := config.ParseHere(text, path, mounts.Local)
	if errors.Is(err, config.ErrNotLookedAt) {
		return nil, nil, nil
	}
	return cfg, mounts, err
}
