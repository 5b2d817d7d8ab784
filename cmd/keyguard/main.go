// Keyguard guards the master key of the containarium daemon on one host: it restores
// or validates the key before the daemon starts, keeps copies of it off the host, and
// proves them on the rows that it must open.
//
// This file holds the command tree and what all commands share; each command has a
// file of its own. wiring.go turns the configuration into the things that operations
// work on, remedies.go turns errors into remedies and exit codes.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/outside"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// version is set by the linker (Makefile).
var version = "devel"

// Exit codes, a published contract, which the README and keyguard(8) list.
const (
	exitDone     = 0
	exitInternal = 1
	exitUsage    = 2  // usage or configuration
	exitLost     = 10 // no known key opens the rows
	exitDoubt    = 11 // cannot decide
	exitEscrow   = 12 // done, but an escrow failed
	exitNoCopy   = 13 // no usable copy
	exitRefused  = 14 // refused, to protect the last good copy
	exitBusy     = 15
)

// patience bounds a command that a person waits for. Prestart has its own budget.
const patience = 5 * time.Minute

func main() { os.Exit(run(os.Args[1:])) }

// run is main without the exit.
func run(args []string) int {
	out := &stdout{File: os.Stdout}
	a := &app{in: os.Stdin, out: out, err: os.Stderr}
	if err := start.Prepare(); err != nil {
		return a.explain(err)
	}
	file, isStart := outside.IsStart(append([]string{"keyguard"}, args...))
	if isStart {
		a.configFile, a.command = file, "keyguard prestart"
	} else if mayHang(args) {
		if code, err := outside.Command(os.Args); err == nil {
			return code
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if isStart { // what is left of it: start passes what it can, and waits for this process
		return a.startWorker(ctx)
	}
	waits := outside.Worker()
	root := a.commands()
	if len(args) > 0 && args[0] == cobra.ShellCompRequestCmd {
		bare(root)
	}
	root.SetArgs(args)
	c, err := execute(ctx, root)
	if err == nil && (c.GroupID == "people" || c.Name() == "drill" && !unit.StderrIsJournal()) {
		err = out.lost() // systemd's go by what was done, not by who reads of it
	}
	code := exitDone
	if err != nil {
		a.command = c.CommandPath()
		code = a.explain(err)
	}
	waits.Done(code)
	return code
}

// execute runs a command. One that panics has failed as others fail: what the runtime prints
// is no message for anybody, and ends with the exit code of a mistake on the command line.
func execute(ctx context.Context, root *cobra.Command) (c *cobra.Command, err error) {
	c = root
	err = crew.Do(func() error {
		var err error
		c, err = root.ExecuteContextC(ctx)
		return err
	})
	return c, located(err)
}

// located says of a panic where it came from.
func located(err error) error {
	if p, ok := errors.AsType[*crew.Panic](err); ok {
		return fmt.Errorf("%w at %s", err, panicSite(p.Stack))
	}
	return err
}

// panicSite is where a panic came from: behind the frames of who caught it, and those of the
// runtime. Each frame has two lines, the function's and the place's.
func panicSite(stack []byte) string {
	_, from, _ := strings.Cut(string(stack), "\npanic(")
	lines := strings.Split(from, "\n")
	for i := 2; i+1 < len(lines); i += 2 {
		if !strings.HasPrefix(lines[i], "runtime.") {
			return strings.TrimSpace(lines[i+1])
		}
	}
	return "an unknown place"
}

// mayHang tells whether a command has to do with a file system that may hang, which it could
// not leave. The watcher's process is the one that systemd knows.
func mayHang(args []string) bool {
	if outside.IsWorker() || slices.Contains(args, "watch") || slices.Contains(args, serveDirectory) {
		return false
	}
	a := &app{}
	for i, arg := range args {
		if file, named := strings.CutPrefix(arg, "--config="); named {
			a.configFile = file
		} else if arg == "--config" && i+1 < len(args) {
			a.configFile = args[i+1]
		}
	}
	cfg, mounts, err := start.Local(a.configPath())
	return err == nil && (cfg == nil || !mounts.Local(append(start.Besides(cfg), filepath.Dir(cfg.Keyfile), cfg.StateDir)...))
}

// stdout is standard output, which remembers that something could not be written, and how
// many lines were.
type stdout struct {
	*os.File
	err   error
	lines int
}

func (o *stdout) Write(p []byte) (int, error) {
	n, err := o.File.Write(p)
	o.err = cmp.Or(o.err, err)
	o.lines += bytes.Count(p, []byte("\n"))
	return n, err
}

// lost is why an answer did not get through. A reader that had enough, or a terminal that
// is gone, is no reason.
func (o *stdout) lost() error {
	if o.err == nil || errors.Is(o.err, syscall.EPIPE) {
		return nil
	}
	if info, err := o.Stat(); errors.Is(o.err, syscall.EIO) && err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return nil
	}
	return fmt.Errorf("the answer could not be written: %w", o.err)
}

// app is one run of the program.
type app struct {
	in         *os.File
	out, err   io.Writer
	configFile string
	json       bool
	yes        bool
	when       colourWhen       // to colour
	here       bool             // --here: rotate and repair in this process, which is their unit
	brief      bool             // -q: the answer, and no more
	wordy      bool             // -v
	all        bool             // lists in full
	identities []string         // files that open sealed copies, of --identity
	level      string           // in front of each message, a priority for the journal: "<3>"
	hinted     atomic.Bool      // somebody was told what to type
	wrong      []error          // what keeps escrows from being used
	outside    *outside.Outside // that waits for a start, whose worker this is
	command    string           // that ended with an error: "keyguard status"
	running    string           // the same, while it runs
	metadata   *metadata        // nil until the metadata server was asked
}

// metadata is what the metadata server of Google's cloud said of this host's project.
type metadata struct {
	project string
	err     error
}

func (a *app) commands() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyguard",
		Short: "guard the master key of the containarium daemon",
		Long: `keyguard guards one file: the 32-byte master key of the containarium daemon.
It puts the key right before the daemon starts, escrows it off this host, and
proves every copy on the rows in Postgres that the key must open.`,
		Example: `  keyguard init                       make the escrows and save the key in them
  keyguard status                     how the key and its copies stand
  keyguard restore --dry-run          which copy would be put back`,
		Version:       version,
		SilenceErrors: true,
		// For SuggestionsFor: edits by Levenshtein.
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:                       nothingGiven("command"),
	}
	root.PersistentPreRun = func(c *cobra.Command, _ []string) {
		a.running = c.CommandPath()
		if dry := c.Flags().Lookup("dry-run"); dry != nil && dry.Changed {
			a.running += " --dry-run" // after which to type it in earnest is a step on
		}
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{wrongFlag(c, err)} })
	root.PersistentFlags().StringVar(&a.configFile, "config", "", "the configuration `file` (default $KEYGUARD_CONFIG, else "+config.DefaultPath+")")
	root.PersistentFlags().Var(&a.when, "color", "colour what is printed: `auto|always|never`; auto is on a terminal, unless NO_COLOR is set")
	if err := root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a flag that is not there
	}
	root.PersistentFlags().BoolVarP(&a.brief, "quiet", "q", false, "print no progress, and of status, verify, restore, import and drill the answer alone")
	root.PersistentFlags().BoolVarP(&a.wordy, "verbose", "v", false, "say what is asked where nobody looks on, too, and in status by which rule is decided")
	root.AddGroup(&cobra.Group{ID: "people", Title: "Commands for people:"},
		&cobra.Group{ID: "systemd", Title: "Commands for systemd:"})
	for _, c := range []*cobra.Command{
		a.statusCommand(), a.initCommand(), a.backupCommand(), a.verifyCommand(), a.copiesCommand(),
		a.restoreCommand(), a.rotateCommand(), a.repairCommand(), a.importCommand(), a.paperCommand(), a.acceptCommand(), a.doctorCommand(), a.reportCommand(), a.fleetCommand(), a.configCommand(),
		a.logCommand(), a.explainCommand(), a.versionCommand(),
	} {
		c.GroupID = "people"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.prestartCommand(), a.watchCommand(), a.drillCommand(), a.alertCommand()} {
		c.GroupID = "systemd"
		root.AddCommand(c)
	}
	root.AddCommand(a.serveDirectoryCommand(), a.describeCommand())
	for _, c := range root.Commands() {
		c.Args = usageArgs(c.Args)
	}
	root.Args = usageArgs(unknownCommand)
	strict(root)
	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		foldFlags(c.LocalFlags())
		foldFlags(c.InheritedFlags())
		help(c, args)
	})
	return root
}

// nothingGiven shows the help where what the help lists must be named.
func nothingGiven(what string) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		if err := c.Help(); err != nil {
			return err
		}
		return usageError{errors.New("no " + what + " was given")}
	}
}

// strict has the library's own commands take no name that there is not: they would print
// a help text and call it a success.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Args = usageArgs(func(_ *cobra.Command, args []string) error {
				found, rest, _ := root.Find(args) // where nothing is found, the rest is all of it
				return unknownCommand(found, rest)
			})
		case "completion":
			c.Args = usageArgs(unknownCommand)
			c.RunE = nothingGiven("shell")
		}
	}
}

// foldFlags breaks what is said of flags into lines that fit beside their names.
func foldFlags(flags *pflag.FlagSet) {
	names := 0
	flags.VisitAll(func(f *pflag.Flag) {
		kind, _ := pflag.UnquoteUsage(f)
		names = max(names, len("      -- ")+len(f.Name)+len(kind))
	})
	const gap = 3
	flags.VisitAll(func(f *pflag.Flag) { f.Usage = strings.Join(wrap(f.Usage, width-names-gap), "\n") })
}

// unknownCommand names the nearest command.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, near[0])
	}
	return err
}

// usageArgs makes what a command says of its arguments a usageError.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if check == nil {
			check = noArgs
		}
		if err := check(c, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and %q is one", c.CommandPath(), args[0])
	}
	return nil
}

// wrongFlag puts what the library says of flags into words for people, with the nearest
// flag that there is.
func wrongFlag(c *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		invalid *pflag.InvalidValueError
		lacking *pflag.ValueRequiredError
	)
	switch {
	case errors.As(err, &invalid):
		kind, _ := pflag.UnquoteUsage(invalid.GetFlag())
		return fmt.Errorf("--%s: %q is no %s", invalid.GetFlag().Name, invalid.GetValue(), cmp.Or(kind, "true or false"))
	case errors.As(err, &lacking):
		return fmt.Errorf("--%s needs a value behind it", lacking.GetSpecifiedName())
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		name, near := unknown.GetSpecifiedName(), ""
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
			if !f.Hidden && near == "" && (strings.HasPrefix(f.Name, name) || strings.HasPrefix(name, f.Name)) {
				near = f.Name
			}
		})
		near = cmp.Or(near, config.Nearest(name, names))
		if near != "" {
			return fmt.Errorf("%s has no flag --%s; did you mean --%s?", c.CommandPath(), name, near)
		}
		return fmt.Errorf("%s has no flag --%s", c.CommandPath(), name)
	}
	return err
}

// operate makes a command of what is done with the host once the configuration is read.
func (a *app) operate(do func(context.Context, *agent.Host, *config.Config) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		h, cfg, err := a.open()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), patience)
		defer cancel()
		return do(ctx, h, cfg)
	}
}

// forgetBackoff lets the daemon's next start ask every escrow again: what a person did
// may have changed their answers.
func (a *app) forgetBackoff(cfg *config.Config) {
	if err := hooks.ForgetBackoff(cfg.RunDir); err != nil {
		a.urgent("cannot clear the back-off: %v", err)
	}
}

// say prints a message for people, on stderr.
func (a *app) say(format string, args ...any) {
	fmt.Fprint(a.err, a.level+fold(a.err, "keyguard: "+fmt.Sprintf(format, args...)))
}

// printEvent prints what happened, with what to do about what went wrong.
func (a *app) printEvent(e hooks.Event) {
	if !e.IsUrgent() {
		a.say("%s", e.Line())
		return
	}
	a.urgent("%s", e.Line())
	if e.Err != nil {
		a.remedy(e.Err)
	}
}

// hint prints what to type next, but for the command that was typed just now.
func (a *app) hint(text string) {
	if text = notAgain(text, a.running); text == "" {
		return
	}
	a.hinted.Store(true)
	fmt.Fprint(a.err, a.level+fold(a.err, "hint: "+text))
}

// notAgain takes out of a hint what would send back to the command that prints it: "then:
// keyguard status" goes without saying there. With other flags it is another command.
func notAgain(hint, running string) string {
	if running == "" {
		return hint
	}
	var kept []string
	for clause := range strings.SplitSeq(hint, "; ") {
		for _, then := range []string{", then: ", ", then see: ", ", and check it: ", " and check it: "} {
			what, next, _ := strings.Cut(clause, then)
			if _, flags, same := strings.Cut(next, running); same && !strings.HasPrefix(flags, " --") {
				clause = what
			}
		}
		if what, same := strings.CutSuffix(clause, ": "+running); same && strings.Contains(what, ", ") {
			clause = what // more than what the command is for
		}
		if at := strings.Index(clause, running); at >= 0 {
			rest := strings.TrimLeft(clause[at+len(running):], " ")
			if !strings.HasPrefix(rest, "--") {
				continue
			}
		}
		kept = append(kept, clause)
	}
	return strings.Join(kept, "; ")
}

// sayWaiting says what a person waits for, where a person does.
func (a *app) sayWaiting(format string, args ...any) {
	if (terminal(a.err) || a.wordy) && !a.brief {
		a.say(format, args...)
	}
}

// andEscrows are the escrows that are asked, too, "" where there are none.
func andEscrows(and string, h *agent.Host) string {
	if len(h.Escrows) == 0 {
		return ""
	}
	return and + printable.Count(int64(len(h.Escrows)), "escrow")
}

// person names who runs this, for the ledger: the one behind sudo(8), if any.
func person() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}
