package kinds_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	pm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/passwordmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// buildManagers makes the stand-ins, once: hundreds of runs of a program as large as this
// test would take a minute.
var buildManagers = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", filepath.Join(programs, "op"), "../../../packaging/testing/fake-password-managers").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return errors.Join(os.Symlink("op", filepath.Join(programs, "bw")), os.Symlink("op", filepath.Join(programs, "vaulty")))
})

// programs is where the stand-ins are, in PATH.
var programs string

// manager is one password manager with an account of its own.
type manager struct {
	pm.Account
	o kinds.CommandOptions
	// put makes an entry by hand.
	put func(t *testing.T, name, text string)
	// what its operations are called: listing, reading one, making one
	list, fetch, save string
}

func start(t testing.TB, name string) *manager {
	t.Helper()
	try(t, buildManagers())
	return managers[name](t)
}

func (m *manager) open(t testing.TB) *kinds.Command {
	t.Helper()
	c, err := kinds.NewCommand(m.o)
	try(t, err)
	return c
}

func (m *manager) ready(t testing.TB) *kinds.Command {
	t.Helper()
	c := m.open(t)
	try(t, c.Init(t.Context()))
	return c
}

// environment writes an environment file.
func environment(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "environment")
	try(t, os.WriteFile(file, []byte("# a comment\n\n"+strings.Join(lines, "\n")+"\n"), 0o600))
	return file
}

var managers = map[string]func(t testing.TB) *manager{
	"1password": func(t testing.TB) *manager {
		m := &manager{Account: pm.Account{Dir: t.TempDir()}, list: "item list", fetch: "document get", save: "document create"}
		m.o = kinds.CommandOptions{Name: "op", Preset: "1password", Path: "Infra/containarium-web1",
			EnvironmentFile: environment(t, "OP_CONFIG_DIR="+m.Dir, `OP_SERVICE_ACCOUNT_TOKEN="`+pm.Token+`"`)}
		m.put = func(_ *testing.T, name, text string) {
			m.Add(pm.Item{Vault: "Infra", Title: "containarium-web1/" + name, Category: "SECURE_NOTE", Text: text})
		}
		return m
	},
	"bitwarden": func(t testing.TB) *manager {
		m := &manager{Account: pm.Account{Dir: t.TempDir()}, list: "list items", fetch: "get item", save: "create item"}
		m.o = kinds.CommandOptions{Name: "bw", Preset: "bitwarden", Path: "containarium-web1",
			EnvironmentFile: environment(t, "BITWARDENCLI_APPDATA_DIR="+m.Dir, "BW_SESSION="+pm.Token)}
		m.put = func(_ *testing.T, name, text string) { m.Add(pm.Item{Title: "containarium-web1/" + name, Text: text}) }
		return m
	},
	"vaulty": func(t testing.TB) *manager {
		m := &manager{Account: pm.Account{Dir: t.TempDir()}, list: "list", fetch: "fetch", save: "save"}
		m.o = kinds.CommandOptions{Name: "vaulty", Save: []string{"vaulty", "save"}, List: []string{"vaulty", "list"},
			Fetch: []string{"vaulty", "fetch", "{name}"}, EnvironmentFile: environment(t, "HOME="+m.Dir)}
		m.put = func(_ *testing.T, name, text string) { m.Add(pm.Item{Title: name, Text: text}) }
		return m
	},
	"pass": newStore,
}

// newStore is a real password store, with a key of its own that has no passphrase.
func newStore(t testing.TB) *manager {
	dir, err := os.MkdirTemp("", "kg") // gpg-agent's sockets need a short path
	try(t, err)
	home, store := filepath.Join(dir, "gnupg"), filepath.Join(dir, "store")
	try(t, os.Mkdir(home, 0o700))
	run := func(in string, args ...string) {
		c := exec.Command(args[0], args[1:]...)
		c.Env = append(os.Environ(), "GNUPGHOME="+home, "PASSWORD_STORE_DIR="+store)
		c.Stdin = strings.NewReader(in)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		run("", "gpgconf", "--kill", "all")
		try(t, os.RemoveAll(dir))
	})
	run("", "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "keyguard@example.com", "future-default")
	run("", "pass", "init", "keyguard@example.com")
	m := &manager{Account: pm.Account{Dir: store}}
	m.o = kinds.CommandOptions{Name: "pass", Preset: "pass", Path: "hosts/web1",
		EnvironmentFile: environment(t, "GNUPGHOME="+home, "PASSWORD_STORE_DIR="+store)}
	m.put = func(t *testing.T, name, text string) {
		// The kernel's file times lag a few milliseconds behind its clock.
		for start := time.Now(); ; {
			run(text, "pass", "insert", "--multiline", "--force", "hosts/web1/"+name)
			st, err := os.Stat(filepath.Join(store, "hosts/web1", name+".gpg"))
			try(t, err)
			if st.ModTime().After(start) {
				return
			}
		}
	}
	return m
}

func TestCommandConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	for _, tt := range []struct {
		name, of string
		to       []string
		identity string
	}{
		{"1password", "1password", nil, ""},
		{"bitwarden", "bitwarden", nil, ""},
		{"pass", "pass", nil, ""},
		{"scripts", "vaulty", nil, ""},
		{"scripts, sealed", "vaulty", []string{to}, ""},
		{"scripts, sealed and opened", "vaulty", []string{to}, identity},
	} {
		if os.Getenv("KEYGUARD_EVERY_MANAGER") == "" && tt.of != "vaulty" || brief.Run() && tt.to != nil {
			continue // a thousand runs of programs; make test makes them
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// Every place of the store is a folder of the same one: making a key takes a while.
			var store *manager
			if tt.of == "pass" {
				store = newStore(t)
			}
			escrowtest.Run(t, escrowtest.Harness{
				Seals: tt.to != nil, Sealed: tt.to != nil && tt.identity == "",
				New: func(t *testing.T) escrowtest.Place {
					m := store
					if m == nil {
						m = start(t, tt.of)
					} else {
						try(t, os.RemoveAll(filepath.Join(m.Dir, "hosts")))
					}
					m.o.SealTo, m.o.IdentityFiles = tt.to, files(tt.identity)
					return escrowtest.Place{
						Open: func(t *testing.T) escrow.Escrow { return m.open(t) },
						Put: func(t *testing.T, s escrow.Shelf, data []byte) string {
							id := string(s) + "/by hand"
							m.put(t, id, base64.StdEncoding.EncodeToString(data)+"\n")
							return id
						},
						Misname: func(t *testing.T, id string, data []byte) string {
							_, key, _ := strings.Cut(id, "-") // two entries of one name are none that can be read
							id = string(escrow.Quarantine) + "/20260102T030405.000Z-" + key
							m.put(t, id, base64.StdEncoding.EncodeToString(data)+"\n")
							return id
						},
						Faults: m.faults(),
					}
				},
			})
		})
	}
}

func (m *manager) faults() []escrowtest.Fault {
	if m.list == "" { // pass is real, and its faults are TestPass's
		return nil
	}
	var all []escrowtest.Fault
	add := func(op, command, way string, want error, stored bool) {
		all = append(all, escrowtest.Fault{Name: op + " " + way, Op: op, Want: want, Stored: stored, Break: func(t *testing.T) func() {
			try(t, m.Break(command, way))
			return func() { try(t, m.Break("", "")) }
		}})
	}
	expired := escrow.ErrUnauthenticated
	limited := escrow.ErrRateLimited
	offline := escrow.ErrNeverLeft
	if m.o.Preset == "" {
		expired, limited, offline = escrow.ErrDenied, escrow.ErrUnreachable, escrow.ErrUnreachable
	}
	for op, command := range map[string]string{"list": m.list, "save": m.save} {
		add(op, command, "expired", expired, false)
		add(op, command, "prompt", escrow.ErrUnauthenticated, false)
		add(op, command, "limited", limited, false)
		add(op, command, "offline", offline, false)
		add(op, command, "denied", escrow.ErrDenied, false)
		add(op, command, "flood", escrow.ErrCorrupt, false)
		add(op, command, "leak", escrow.ErrUnreachable, false)
	}
	add("save", m.save, "after", escrow.ErrUnreachable, true)
	add("save", m.list, "expired", expired, false)
	add("fetch", m.fetch, "expired", expired, false)
	add("fetch", m.fetch, "prompt", escrow.ErrUnauthenticated, false)
	if m.o.Preset == "bitwarden" {
		add("fetch", m.fetch, "junk", escrow.ErrCorrupt, false)
		add("list", "sync", "offline", offline, false)
	} else {
		add("fetch", m.fetch, "junk", escrow.ErrNotKey, false)
	}
	if m.o.Preset != "" {
		add("list", m.list, "junk", escrow.ErrCorrupt, false)
	} else {
		add("list", m.list, "junk", escrow.ErrNoPlace, false)
	}
	return all
}

// TestCommandQuestions: whoever asks a question is named, and not waited for longer than
// for anybody; there is no terminal to ask it on.
func TestCommandQuestions(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"1password", "bitwarden", "vaulty"} {
		list := func(t *testing.T, way string) error {
			t.Parallel()
			m := start(t, name)
			m.ready(t)
			m.o.Timeout = 8 * time.Second // a busy machine too has asked by then
			try(t, m.Break(m.list, way))
			_, err := m.open(t).List(t.Context())
			return err
		}
		t.Run(name+", a question", func(t *testing.T) {
			if err := list(t, "tty"); !errors.Is(err, escrow.ErrUnauthenticated) || !strings.Contains(err.Error(), "asks a question") {
				t.Errorf("%v", err)
			}
		})
		t.Run(name+", no answer", func(t *testing.T) {
			if err := list(t, "hang"); !errors.Is(err, escrow.ErrTimeout) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestCommandDuplicates: of two entries of one name nobody knows which is meant.
func TestCommandDuplicates(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"1password", "bitwarden", "vaulty"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t, name)
			c := m.ready(t)
			older, k := key.Generate(), key.Generate()
			mustSave(t, c, escrow.Current, older)
			saved := mustSave(t, c, escrow.Current, k)
			m.put(t, saved.ID, base64.StdEncoding.EncodeToString(key.Generate().UnsafeBytes()))
			c = m.open(t)
			copies, err := c.List(t.Context())
			if err != nil || len(copies) != 2 || copies[0].ID != saved.ID || copies[0].Unreadable != "2 entries have this name" {
				t.Fatalf("%+v, %v", copies, err)
			}
			if got, _, err := c.Fetch(t.Context(), copies[0]); !errors.Is(err, escrow.ErrUnreadable) || !got.IsZero() {
				t.Errorf("Fetch: %v, %v", got, err)
			}
			if got, _, err := c.Fetch(t.Context(), copies[1]); err != nil || !got.Equal(older) {
				t.Errorf("the other copy: %v, %v", got, err)
			}
			// A Save does not trust it either.
			if again := mustSave(t, c, escrow.Current, k); again.ID == saved.ID {
				t.Error("a name that two entries have counts as the key")
			}
			m.put(t, "keyguard", "twice")
			if _, err := c.List(t.Context()); err != nil {
				t.Errorf("two marks: %v", err)
			}
		})
	}
}

// TestCommandEnvironment: nothing but what is listed gets through, and the file wins.
func TestCommandEnvironment(t *testing.T) {
	t.Setenv("KEYGUARD_CANARY", "leaked")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "leaked")
	t.Setenv("OP_SERVICE_ACCOUNT_TOKEN", "leaked")
	dump := func(file string) string {
		c, err := kinds.NewCommand(kinds.CommandOptions{Name: "x", Save: []string{"true"}, Fetch: []string{"env"},
			List: []string{"sh", "-c", "env | grep -v ^PATH= >&2; tty >&2; exit 1"}, EnvironmentFile: file}) // a PATH may be long, and is cut
		try(t, err)
		_, err = c.List(t.Context())
		return fmt.Sprint(err)
	}
	got := dump(environment(t, "ONE='a b'", "HOME=/nowhere", "TOKEN=very-secret-token-of-mine"))
	for _, want := range []string{"ONE=", "HOME=/nowhere", "LC_ALL=C.UTF-8", "not a tty"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %s", got, want)
		}
	}
	for _, not := range []string{"leaked", "very-secret-token-of-mine"} {
		if strings.Contains(got, not) {
			t.Errorf("%q has %s", got, not)
		}
	}
	for name, file := range map[string]string{"missing": filepath.Join(t.TempDir(), "x"), "no form": environment(t, "export A=b")} {
		if got := dump(file); !strings.Contains(got, "not authenticated") || strings.Contains(got, "A=b") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestCommandWithoutProgram(t *testing.T) {
	c, err := kinds.NewCommand(kinds.CommandOptions{Name: "x", Save: []string{"/nonexistent"}, List: []string{"/nonexistent"}, Fetch: []string{"no-such-program"}})
	try(t, err)
	if _, err := c.List(t.Context()); !errors.Is(err, escrow.ErrProgram) {
		t.Errorf("%v", err)
	}
}

// TestCommandUnsafe: a program that others may change is not run, nor given a key (law 8).
func TestCommandUnsafe(t *testing.T) {
	dir := t.TempDir()
	put, ran := filepath.Join(dir, "put"), filepath.Join(dir, "ran")
	try(t, os.WriteFile(put, []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, place := range map[string]struct{ dir, program fs.FileMode }{"the program": {0o700, 0o722}, "its directory": {0o777, 0o700}, "neither": {0o700, 0o700}} {
		try(t, errors.Join(os.Chmod(dir, place.dir), os.Chmod(put, place.program)))
		for _, path := range []string{put, "put"} {
			c, err := kinds.NewCommand(kinds.CommandOptions{Name: "x", Save: []string{path}, List: []string{path}, Fetch: []string{path}})
			try(t, err)
			_, err = c.List(t.Context())
			_, missing := os.Stat(ran)
			if refused := errors.Is(err, kinds.ErrUnsafe) && errors.Is(err, escrow.ErrProgram); refused != (name != "neither") || refused != (missing != nil) {
				t.Errorf("%s, %s: %v, %v", name, path, err, missing)
			}
			_ = os.Remove(ran)
		}
	}
}

// TestPass: what keyguard stored is what pass shows, and what pass cannot open is named.
func TestPass(t *testing.T) {
	t.Parallel()
	m := newStore(t)
	c := m.ready(t)
	k := key.Generate()
	saved := mustSave(t, c, escrow.Current, k)
	show := exec.Command("pass", "show", "hosts/web1/"+saved.ID)
	show.Env = append(os.Environ(), "PASSWORD_STORE_DIR="+m.Dir, "GNUPGHOME="+filepath.Join(filepath.Dir(m.Dir), "gnupg"))
	out, err := show.Output()
	if err != nil || string(out) != base64.StdEncoding.EncodeToString(k.UnsafeBytes())+"\n" {
		t.Errorf("pass show: %d bytes, %v", len(out), err)
	}
	good := m.o.EnvironmentFile
	for name, tt := range map[string]struct {
		lines []string
		want  error
	}{
		"another store":      {[]string{"PASSWORD_STORE_DIR=" + t.TempDir()}, escrow.ErrNoPlace},
		"the secret is gone": {[]string{"PASSWORD_STORE_DIR=" + m.Dir, "GNUPGHOME=" + t.TempDir()}, escrow.ErrUnauthenticated},
	} {
		m.o.EnvironmentFile = environment(t, tt.lines...)
		if _, _, err := m.open(t).Fetch(t.Context(), saved); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	m.o.EnvironmentFile = good
	if got, _, err := m.open(t).Fetch(t.Context(), saved); err != nil || !got.Equal(k) {
		t.Errorf("%v, %v", got, err)
	}
	for n, test := range []struct {
		name  string
		entry []byte
	}{{"empty", nil}, {"garbage", []byte("garbage")}, {"for another key", toAnotherKey(t)}} {
		t.Run(test.name, func(t *testing.T) {
			bad := fmt.Sprintf("hosts/web1/current/299%d0101T000000.000Z-%s.key.gpg", n, k.Fingerprint())
			try(t, os.WriteFile(filepath.Join(m.Dir, bad), test.entry, 0o600))
			oneBadEntry(t, m.open(t), k)
		})
	}
}

// toAnotherKey is an entry that somebody made for a GnuPG key that is not here.
func toAnotherKey(t *testing.T) []byte {
	m := newStore(t)
	m.put(t, "theirs", base64.StdEncoding.EncodeToString(key.Generate().UnsafeBytes())+"\n")
	entry, err := os.ReadFile(filepath.Join(m.Dir, "hosts/web1/theirs.gpg"))
	try(t, err)
	return entry
}

// oneBadEntry: the newest copy of k cannot be read, and is one that cannot be read: the others
// can, and the next save goes on top.
func oneBadEntry(t *testing.T, c *kinds.Command, k key.Key) {
	t.Helper()
	copies, err := c.List(t.Context())
	try(t, err)
	bad := copies[0]
	if _, _, err := c.Fetch(t.Context(), bad); !errors.Is(err, escrow.ErrUnreadable) || errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, escrow.ErrUnauthenticated) {
		t.Errorf("the copy that cannot be read: %v", err)
	}
	if got, _, err := c.Fetch(t.Context(), copies[1]); err != nil || !got.Equal(k) {
		t.Errorf("the one below: %v", err)
	}
	saved := mustSave(t, c, escrow.Current, k)
	copies, err = c.List(t.Context())
	try(t, err)
	if saved.ID == bad.ID || copies[0].ID != saved.ID {
		t.Errorf("saved as %s, and on top stands %s", saved.ID, copies[0].ID)
	}
}

// TestCommandOneBadEntry: whatever a program ends with, what it says of one entry says nothing
// of the others; what it says of each of them, the mark among them, is the store's, and a save
// adds nothing there.
func TestCommandOneBadEntry(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		store  error // what that means of the store
	}{{1, escrow.ErrUnreachable}, {75, escrow.ErrUnreachable}, {77, escrow.ErrDenied}, {78, escrow.ErrNoPlace}} {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, sub := range []string{"current", "quarantine"} {
				try(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
			}
			script := func(body string) []string { return []string{"sh", "-c", "cd " + dir + " && " + body, "sh", "{name}"} }
			open := func(bad string) *kinds.Command {
				c, err := kinds.NewCommand(kinds.CommandOptions{Name: "x", Save: script(`cat > "$1"`), List: script(`find . -type f -printf '%P\n'`),
					Fetch: script(fmt.Sprintf(`case $1 in (%s) exit %d; esac; cat "$1"`, bad, test.status))})
				try(t, err)
				return c
			}
			k := key.Generate()
			bad := "current/29990101T000000.000Z-" + string(k.Fingerprint()) + ".key"
			c := open(bad)
			try(t, c.Init(t.Context()))
			mustSave(t, c, escrow.Current, k)
			try(t, os.WriteFile(filepath.Join(dir, bad), nil, 0o600))
			oneBadEntry(t, c, k)
			all := open("*")
			if _, _, err := all.Fetch(t.Context(), escrow.Copy{ID: bad}); !errors.Is(err, test.store) || errors.Is(err, escrow.ErrUnreadable) {
				t.Errorf("of each entry: %v", err)
			}
			_, err := all.Save(t.Context(), escrow.Current, k)
			copies, lerr := c.List(t.Context())
			try(t, lerr)
			if want := map[bool]int{true: 4, false: 3}[test.store == escrow.ErrDenied]; err == nil || len(copies) != want { // whoever may not read adds
				t.Errorf("saved where nothing can be read: %v, and %d copies instead of %d", err, len(copies), want)
			}
		})
	}
}

// TestPassEncryptsToNobody: a key that GnuPG has no trust in, that is expired, or that is
// not there is no trouble of the network.
func TestPassEncryptsToNobody(t *testing.T) {
	t.Parallel()
	m := newStore(t)
	c := m.ready(t)
	home := filepath.Join(filepath.Dir(m.Dir), "gnupg")
	gpg := func(in string, args ...string) string {
		c := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet"}, args...)...)
		c.Stdin = strings.NewReader(in)
		out, err := c.Output()
		if err != nil {
			t.Fatalf("gpg %q: %v", args, err)
		}
		return string(out)
	}
	gpg("", "--faked-system-time", "20200101T000000", "--passphrase", "", "--quick-generate-key", "old@example.com", "future-default", "default", "1d")
	_, rest, _ := strings.Cut(gpg("", "--with-colons", "--list-keys", "keyguard@example.com"), "\nfpr:::::::::")
	mine, _, _ := strings.Cut(rest, ":")
	gpg(mine+":3:\n", "--import-ownertrust")
	for name, says := range map[string]string{
		"keyguard@example.com": "no assurance this key belongs", "old@example.com": "public key", "none@example.com": "public key",
	} {
		try(t, os.WriteFile(filepath.Join(m.Dir, ".gpg-id"), []byte(name+"\n"), 0o600))
		_, err := c.Save(t.Context(), escrow.Current, key.Generate())
		if !errors.Is(err, escrow.ErrGnuPG) || !errors.Is(err, escrow.ErrRefused) || !strings.Contains(strings.ToLower(err.Error()), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCommandEndOfTime: where no entry can be newer than one that is there, no key goes on top of
// it, and a rehearsal finds out before there is one. In quarantine none has to be on top.
func TestCommandEndOfTime(t *testing.T) {
	for name := range managers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t, name)
			c := m.ready(t)
			try(t, c.Rehearse(t.Context()))
			mustSave(t, c, escrow.Quarantine, key.Generate())
			put := func(s escrow.Shelf) string {
				name := string(s) + "/99991231T235959.999Z-" + string(key.Generate().Fingerprint()) + ".key"
				m.put(t, name, base64.StdEncoding.EncodeToString(key.Generate().UnsafeBytes()))
				return name
			}
			put(escrow.Quarantine)
			try(t, c.Rehearse(t.Context()))
			last := put(escrow.Current)
			_, save := c.Save(t.Context(), escrow.Current, key.Generate())
			for what, err := range map[string]error{"a save": save, "a rehearsal": c.Rehearse(t.Context())} {
				if !errors.Is(err, escrow.ErrEndOfTime) || !strings.Contains(err.Error(), last) {
					t.Errorf("%s: %v", what, err)
				}
			}
			mustSave(t, c, escrow.Quarantine, key.Generate())
			copies, err := c.List(t.Context())
			if try(t, err); len(copies) != 4 {
				t.Errorf("a rehearsal leaves something: %+v", copies)
			}
		})
	}
}

// TestCommandBounds: who fills the place with names of his own hides no copy of ours.
func TestCommandBounds(t *testing.T) {
	t.Parallel()
	ours := "current/20260102T030405.000Z-" + string(key.Generate().Fingerprint()) + ".key"
	c, err := kinds.NewCommand(kinds.CommandOptions{Name: "vaulty", Save: []string{"true"}, Fetch: []string{"true"},
		List: []string{"sh", "-c", "echo keyguard; echo " + ours + "; seq -f current/foreign-%06.0f 90000"}})
	try(t, err)
	copies, err := c.List(t.Context())
	if err != nil || len(copies) != 102 || copies[0].ID != ours || !strings.Contains(copies[101].Unreadable, "89900 more") {
		t.Fatalf("%d copies, %v", len(copies), err)
	}
	if _, _, err := c.Fetch(t.Context(), copies[101]); !errors.Is(err, escrow.ErrUnreadable) {
		t.Error(err)
	}
}

func BenchmarkCommandFetch(b *testing.B) {
	for name := range managers {
		b.Run(name, func(b *testing.B) {
			m := start(b, name)
			c := m.ready(b)
			saved := mustSave(b, c, escrow.Current, key.Generate())
			for b.Loop() {
				if _, _, err := m.open(b).Fetch(b.Context(), saved); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
