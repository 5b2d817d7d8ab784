package unit

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// environmentFiles are files and what systemd 252 makes of them, which packaging/e2e asks
// it in a guest.
func environmentFiles(tb testing.TB) (cases []struct {
	What, Text string
	Want       []string
}) {
	data, err := os.ReadFile("testdata/environment.json")
	if err == nil {
		err = json.Unmarshal(data, &cases)
	}
	if err != nil || len(cases) == 0 {
		tb.Fatalf("%d cases, %v", len(cases), err)
	}
	return cases
}

func TestParseEnvironmentFile(t *testing.T) {
	for _, c := range environmentFiles(t) {
		env := environment{variables: map[string]string{}, version: 252}
		entries, err := env.parse([]byte(c.Text))
		env.set(entries)
		if got := list(env.variables); err != nil || !slices.Equal(got, c.Want) {
			t.Errorf("%s: %q, %v; want %q", c.What, got, err, c.Want)
		}
	}
	newer := environment{version: 254}
	if got, _ := newer.parse([]byte("# x\\\nA=b")); !slices.Equal(got, []string{"A=b"}) {
		t.Errorf("%q", got)
	}
	for _, text := range []string{"A=b\xff", "A=b\x00c", "\xff=b"} {
		if _, err := newer.parse([]byte(text)); !errors.Is(err, ErrEnvironmentFile) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseEnvironmentFile(f *testing.F) {
	for _, c := range environmentFiles(f) {
		f.Add([]byte(c.Text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		env := environment{variables: map[string]string{}}
		entries, err := env.parse(data)
		env.set(entries)
		for name, value := range env.variables {
			if !validName(name) || err == nil && !utf8.ValidString(value) || err == nil && len(name)+len(value) > len(data) {
				t.Errorf("%q=%q", name, value)
			}
		}
	})
}

func list(variables map[string]string) []string {
	var l []string
	for name, value := range variables {
		l = append(l, name+"="+value)
	}
	slices.Sort(l)
	return l
}

// TestFacts: the daemon's variables in systemd's order, and what keeps a unit from being
// read whole.
func TestFacts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := write("1.env", "A=file1\nB=file1"), write("2.env", "B=file2")
	bad, fifo := write("bad", "A=\xff"), filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	argv := func(words ...string) [][]any { return [][]any{{words[0], words, false}} }
	whole := func(more map[string]any) map[string]any {
		p := map[string]any{"Environment": []string{}, "EnvironmentFiles": [][]any{}, "ExecStart": argv("/bin/daemon")}
		maps.Copy(p, more)
		return p
	}
	for _, c := range []struct {
		what string
		m    manager
		p    map[string]any
		want []string
		flag string
		err  error // errAny: any
	}{
		{what: "nothing", p: whole(nil)},
		{what: "in order", m: manager{environment: []string{"A=manager", "C=manager"}},
			p:    whole(map[string]any{"Environment": []string{"A=unit", "D=unit"}, "EnvironmentFiles": [][]any{{one, false}, {two, true}}}),
			want: []string{"A=file1", "B=file2", "C=manager", "D=unit"}},
		{what: "a pattern", p: whole(map[string]any{"EnvironmentFiles": [][]any{{filepath.Join(dir, "?.env"), false}}}), want: []string{"A=file1", "B=file2"}},
		{what: "unset", p: whole(map[string]any{"Environment": []string{"A=1", "B=2", "C=3"}, "UnsetEnvironment": []string{"A", "B=x", "C=3"}}), want: []string{"B=2"}},
		{what: "one that may be missing", p: whole(map[string]any{"EnvironmentFiles": [][]any{{filepath.Join(dir, "x"), true}}})},
		{what: "one that may be missing, of a directory that is", p: whole(map[string]any{"EnvironmentFiles": [][]any{{filepath.Join(dir, "x", "y"), true}}})},
		{what: "one that is missing", p: whole(map[string]any{"EnvironmentFiles": [][]any{{filepath.Join(dir, "x"), false}}}), err: fs.ErrNotExist},
		{what: "one that systemd does not read", p: whole(map[string]any{"EnvironmentFiles": [][]any{{one, false}, {bad, true}}}), want: []string{"A=file1", "B=file1"}, err: ErrEnvironmentFile},
		{what: "a FIFO", p: whole(map[string]any{"EnvironmentFiles": [][]any{{fifo, true}}}), err: ErrEnvironmentFile},
		{what: "a directory", p: whole(map[string]any{"EnvironmentFiles": [][]any{{dir, true}}}), err: ErrEnvironmentFile},
		{what: "of another form", p: whole(map[string]any{"EnvironmentFiles": [][]any{{one}}}), err: errAny},
		{what: "no list of files", p: whole(map[string]any{"EnvironmentFiles": nil}), err: errAny},
		{what: "no variables", p: whole(map[string]any{"Environment": 1}), err: errAny},
		{what: "no command", p: whole(map[string]any{"ExecStart": [][]any{}}), err: errAny},
		{what: "systemd says nothing of itself", m: manager{err: errAny}, p: whole(nil), err: errAny},
		{what: "passed on", p: whole(map[string]any{"PassEnvironment": []string{"LANG", "PGPASSWORD"}}), err: errAny},
		{what: "the flag", p: whole(map[string]any{"ExecStart": argv("/bin/daemon", "daemon", "--postgres", "postgres://h/d")}), flag: "postgres://h/d"},
		{what: "the flag with a variable", p: whole(map[string]any{"Environment": []string{"PW=p$w"}, "ExecStart": argv("/bin/daemon", "--postgres=postgres://u:${PW}$$@h/d")}),
			want: []string{"PW=p$w"}, flag: "postgres://u:p$w$@h/d"},
		{what: "the flag is a variable", p: whole(map[string]any{"Environment": []string{"U=postgres://h/d"}, "ExecStart": argv("/bin/daemon", "--postgres", "$U")}),
			want: []string{"U=postgres://h/d"}, flag: "postgres://h/d"},
	} {
		f := facts("a.service", c.m, c.p)
		if !slices.Equal(list(f.Environ), c.want) || f.PostgresFlag != c.flag || f.Inherited ||
			(f.Unread == nil) != (c.err == nil) || c.err != nil && c.err != errAny && !errors.Is(f.Unread, c.err) {
			t.Errorf("%s: %q, flag %q, %v", c.what, list(f.Environ), f.PostgresFlag, f.Unread)
		}
		if f.Unread != nil && (strings.Contains(f.Unread.Error(), "\x00") || !utf8.ValidString(f.Unread.Error())) {
			t.Errorf("%s: %q", c.what, f.Unread)
		}
	}
}

var errAny = errors.New("any")

// TestRunning: what the process was given goes before the unit. A process that has ended,
// or that is not the daemon yet, leaves the unit's word.
func TestRunning(t *testing.T) {
	f := Facts{Environ: map[string]string{"A": "unit"}, PostgresFlag: "unit", Unread: errAny}
	proc := t.TempDir()
	process := func(environ, cmdline string) {
		t.Helper()
		for name, text := range map[string]string{"environ": environ, "cmdline": cmdline} {
			if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f.running(proc)
	}
	f.running(proc)
	process("", "")
	process("LANG=C.UTF-8\x00PATH=/usr/bin\x00", "/usr/lib/systemd/systemd-executor\x00--deserialize\x0051\x00")
	if f.Environ["A"] != "unit" || f.Inherited || f.Unread == nil {
		t.Errorf("%+v", f)
	}
	process("A=process\x00B=c=d\x00INVOCATION_ID=00ff\x00", "/bin/daemon\x00--postgres=process\x00")
	if !slices.Equal(list(f.Environ), []string{"A=process", "B=c=d", "INVOCATION_ID=00ff"}) || !f.Inherited || f.Unread != nil || f.PostgresFlag != "process" {
		t.Errorf("%+v", f)
	}
}
