package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	keyA key.Fingerprint = "aaaaaaaaaaaaaaaa"
	keyB key.Fingerprint = "bbbbbbbbbbbbbbbb"
	keyC key.Fingerprint = "cccccccccccccccc"
	keyD key.Fingerprint = "dddddddddddddddd"
	keyE key.Fingerprint = "eeeeeeeeeeeeeeee"
)

// The test program is also the one that appends and is killed: the variable says how.
func TestMain(m *testing.M) {
	how, dir, _ := strings.Cut(os.Getenv("LEDGER_TEST_PROGRAM"), ":")
	l := Open(dir, Options{Host: "child"})
	var err error
	switch how {
	case "":
		os.Exit(m.Run())
	case "append": // two entries at once, as a crash test wants
		durabletest.Begin()
		err = l.Append(proven(keyB), Entry{Event: Drilled, Fingerprint: keyB})
		durabletest.End()
	case "many":
		for i := range 50 {
			err = errors.Join(err, l.Append(Entry{Event: Saved, Copy: strconv.Itoa(i), Person: strconv.Itoa(os.Getpid())}))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// hourly is a ledger whose clock goes on by an hour each time it is looked at.
func hourly(t testing.TB) *Ledger {
	n := -1
	return Open(filepath.Join(t.TempDir(), "state"), Options{Host: "web1", Version: "1.0", Config: "c0f1", Now: func() time.Time {
		n++
		return start.Add(time.Duration(n) * time.Hour)
	}})
}

func proven(f key.Fingerprint) Entry {
	return Entry{Event: Proven, Fingerprint: f, Verdict: "opens", Checked: 10, Opened: 10}
}

func accepted(f key.Fingerprint, verdict string) Entry {
	return Entry{Event: Accepted, Fingerprint: f, Verdict: verdict, Person: "ada"}
}

func against(f key.Fingerprint) Entry {
	return Entry{Event: Contradicted, Fingerprint: f, Verdict: "refuted"}
}

func write(t testing.TB, l *Ledger, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t testing.TB, l *Ledger) []byte {
	t.Helper()
	b, err := os.ReadFile(l.path())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, l *Ledger, data []byte) {
	t.Helper()
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.path(), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, l *Ledger) Record {
	t.Helper()
	r, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stands(t testing.TB, l *Ledger) Standing {
	t.Helper()
	s, err := l.Standing()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// meaning is design's definition of what the ledger says, from the whole record.
func meaning(r Record) Standing {
	from := 0
	if n := len(r.Breaks); n > 0 {
		from = r.Breaks[n-1].Line
	}
	var s Standing
	for _, e := range r.Entries {
		switch {
		case e.Line < from:
		case e.Event == Proven || e.Event == Accepted:
			s = Standing{Known: e.Fingerprint, By: e.Event, Verdict: e.Verdict, Checked: e.Checked, Opened: e.Opened, LastLook: e.Time, word: e.Seq}
		case e.Event == Contradicted && e.Fingerprint == s.Known:
			s = Standing{word: s.word}
		case e.Event == RotationClosed && e.Fingerprint == "":
			s = Standing{word: e.Seq}
		}
	}
	if n := len(r.Entries); n > 0 {
		s.Rotation, s.Stopped = r.Entries[n-1].Rotation, r.Entries[n-1].Stopped
	}
	return s
}

func TestAppendAndRead(t *testing.T) {
	l := hourly(t)
	in := []Entry{
		{Event: Made, Fingerprint: keyA, Reason: "no database yet\nand \"quotes\" <&>"},
		{Event: Saved, Fingerprint: keyA, Escrow: "gcp", Copy: "3", Shelf: "current"},
		{Event: Drilled, Fingerprint: keyA, Escrow: "gcp", Copy: "3", Shelf: "current", Verdict: "failed", Drill: "d1", Judged: true,
			Full: true, Checked: 10, Opened: 9, Total: 11, Took: 1500 * time.Millisecond, Person: "ada", Old: keyB},
		{Event: DrillEnded, Drill: "d1", Verdict: "failed", Full: true, Config: "other"},
	}
	write(t, l, in...)
	r := read(t, l)
	if len(r.Entries) != len(in) || r.Torn || r.Breaks != nil {
		t.Fatalf("%+v", r)
	}
	lines := bytes.Split(content(t, l), []byte("\n"))
	for i, want := range in {
		want.Seq, want.Line, want.Time = uint64(i+1), i+1, start.Add(time.Duration(i)*time.Hour)
		want.Host, want.Version = "web1", "1.0"
		if want.Config == "" {
			want.Config = "c0f1"
		}
		if i > 0 {
			want.Prev = sum(lines[i-1])
		}
		if !reflect.DeepEqual(r.Entries[i], want) {
			t.Errorf("got  %+v\nwant %+v", r.Entries[i], want)
		}
	}
	for path, mode := range map[string]fs.FileMode{l.dir: 0o700 | fs.ModeDir, l.path(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestOwnTimeAndHostAreKept(t *testing.T) {
	l := hourly(t)
	at := time.Date(2020, 1, 2, 3, 4, 5, 6789012, time.FixedZone("", 7200))
	write(t, l, Entry{Event: Drilled, Time: at, Host: "other", Version: "0.9"})
	e := read(t, l).Entries[0]
	if !e.Time.Equal(at.Truncate(time.Millisecond)) || e.Time.After(at) || e.Time.Location() != time.UTC || e.Host != "other" || e.Version != "0.9" {
		t.Errorf("%+v", e)
	}
}

func TestModeIsTightened(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA))
	if err := os.Chmod(l.path(), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, l, proven(keyA))
	if info, err := os.Stat(l.path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestRefusedEntries(t *testing.T) {
	for name, e := range map[string]Entry{
		"no event":               {},
		"no fingerprint":         {Event: Proven},
		"accepted, none":         {Event: Accepted},
		"contradicted, none":     {Event: Contradicted},
		"rotation without old":   {Event: RotationOpen, Fingerprint: keyA},
		"rotation without new":   {Event: RotationOpen, Old: keyA},
		"not a fingerprint":      {Event: Saved, Fingerprint: "AAAA"},
		"old not a fingerprint":  {Event: Saved, Old: "xyz"},
		"too long":               {Event: Saved, Copy: strings.Repeat("x", maxLine)},
		"a time without a year":  {Event: Saved, Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)},
		"the second is no entry": {},
	} {
		t.Run(name, func(t *testing.T) {
			l := hourly(t)
			write(t, l, proven(keyA))
			before := content(t, l)
			if err := l.Append(proven(keyB), e); !errors.Is(err, ErrEntry) {
				t.Errorf("error %v", err)
			}
			if !bytes.Equal(content(t, l), before) {
				t.Error("something was written")
			}
		})
	}
}

func TestLongReasonIsCut(t *testing.T) {
	l := hourly(t)
	write(t, l, Entry{Event: Parked, Reason: strings.Repeat("é", maxReason)}, Entry{Event: Parked, Reason: strings.Repeat("\x00", maxReason+1)})
	r := read(t, l)
	if len(r.Breaks) != 0 || len(r.Entries) != 2 || len(r.Entries[0].Reason) > maxReason+len("…") || !strings.HasSuffix(r.Entries[0].Reason, "é…") {
		t.Errorf("%+v", r)
	}
}

func TestStanding(t *testing.T) {
	note := Entry{Event: Saved, Fingerprint: keyC, Escrow: "gcp"}
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	for _, c := range []struct {
		name    string
		entries []Entry
		want    Standing
	}{
		{"nothing", nil, Standing{}},
		{"only history", []Entry{note, {Event: Made, Fingerprint: keyA}}, Standing{}},
		{"proven", []Entry{proven(keyA)}, Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0)}},
		{"accepted", []Entry{accepted(keyA, "refuted")}, Standing{Known: keyA, By: Accepted, Verdict: "refuted", LastLook: at(0)}},
		{"the last counts", []Entry{proven(keyA), accepted(keyB, "silent"), note}, Standing{Known: keyB, By: Accepted, Verdict: "silent", LastLook: at(1)}},
		{"proven again", []Entry{accepted(keyA, "silent"), note, proven(keyA), note}, Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(2)}},
		{"contradicted", []Entry{proven(keyA), against(keyA)}, Standing{}},
		{"contradicted, never an earlier one", []Entry{proven(keyA), proven(keyB), note, against(keyB), note}, Standing{}},
		{"another contradicted", []Entry{proven(keyA), against(keyB)}, Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0)}},
		{"contradicted before", []Entry{proven(keyA), against(keyA), proven(keyA)}, Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(2)}},
		{"an earlier one contradicted", []Entry{proven(keyA), proven(keyB), against(keyA)}, Standing{Known: keyB, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(1)}},
		{"rotation open", []Entry{proven(keyA), {Event: RotationOpen, Old: keyA, Fingerprint: keyB}, note},
			Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0), Rotation: &Rotation{Old: keyA, New: keyB}}},
		{"commit begun", []Entry{proven(keyA), {Event: RotationOpen, Old: keyA, Fingerprint: keyB}, {Event: CommitBegun}, note},
			Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0), Rotation: &Rotation{Old: keyA, New: keyB, CommitBegun: true}}},
		{"rotated", []Entry{proven(keyA), {Event: RotationOpen, Old: keyA, Fingerprint: keyB}, {Event: CommitBegun}, {Event: Rotated, Fingerprint: keyB}, proven(keyB)},
			Standing{Known: keyB, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(4)}},
		{"closed with a key", []Entry{proven(keyA), {Event: RotationOpen, Old: keyA, Fingerprint: keyB}, {Event: RotationClosed, Fingerprint: keyA}},
			Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0)}},
		{"closed with neither", []Entry{proven(keyA), {Event: RotationOpen, Old: keyA, Fingerprint: keyB}, {Event: RotationClosed, Old: keyA}, note}, Standing{}},
		{"known after neither", []Entry{proven(keyA), {Event: RotationClosed}, accepted(keyC, "opens")},
			Standing{Known: keyC, By: Accepted, Verdict: "opens", LastLook: at(2)}},
		{"a second rotation", []Entry{{Event: RotationOpen, Old: keyA, Fingerprint: keyB}, {Event: CommitBegun}, {Event: RotationOpen, Old: keyB, Fingerprint: keyC}},
			Standing{Rotation: &Rotation{Old: keyB, New: keyC}}},
		{"the daemon is stopped", []Entry{{Event: Stopped, Stopped: []string{"a.service", "b.service"}}, {Event: RotationClosed}, note},
			Standing{Stopped: []string{"a.service", "b.service"}}},
		{"and started", []Entry{{Event: Stopped, Stopped: []string{"a.service"}}, {Event: Started}, note}, Standing{}},
		{"commit begun, of nothing", []Entry{{Event: CommitBegun, Old: keyA, Fingerprint: keyB}}, Standing{}},
		{"by a newer version", []Entry{proven(keyA), {Event: "blessed", Fingerprint: keyB}}, Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0)}},
		{"in the future", []Entry{{Event: Proven, Fingerprint: keyA, Time: at(1e6)}, note}, Standing{Known: keyA, By: Proven, LastLook: at(1e6)}},
		{"the future, and then now", []Entry{{Event: Proven, Fingerprint: keyA, Time: at(1e6)}, proven(keyA)},
			Standing{Known: keyA, By: Proven, Verdict: "opens", Checked: 10, Opened: 10, LastLook: at(0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, add := range map[string]func(*Ledger){
				"one by one": func(l *Ledger) { write(t, l, c.entries...) },
				"at once": func(l *Ledger) {
					if err := l.Append(c.entries...); err != nil {
						t.Fatal(err)
					}
				},
			} {
				l := hourly(t)
				add(l)
				got, m := stands(t, l), meaning(read(t, l))
				if !reflect.DeepEqual(got, m) {
					t.Errorf("%s: the record means %+v", how, m)
				}
				if got.word = 0; !reflect.DeepEqual(got, c.want) {
					t.Errorf("%s: got  %+v\nwant %+v", how, got, c.want)
				}
			}
		})
	}
}

func TestRecord(t *testing.T) {
	l := hourly(t)
	write(t, l,
		proven(keyA), proven(keyB), proven(keyA),
		Entry{Event: Contradicted, Fingerprint: keyB},
		Entry{Event: Accepted, Fingerprint: keyC, Verdict: "silent"},
		Entry{Event: Contradicted, Fingerprint: keyA}, proven(keyA),
		Entry{Event: Saved, Fingerprint: keyA, Escrow: "gcp", Copy: "1", Shelf: "current"},
		Entry{Event: Adopted, Fingerprint: keyB, Escrow: "gcp", Copy: "2", Shelf: "current"},
		Entry{Event: Saved, Fingerprint: keyC, Escrow: "gcp", Copy: "q1", Shelf: "quarantine"},
		Entry{Event: Drilled, Fingerprint: keyC, Escrow: "gcp", Copy: "9", Shelf: "current"},
		Entry{Event: Drilled, Fingerprint: keyD, Escrow: "gcp", Copy: "8", Shelf: "current", Checked: 10},
		Entry{Event: Drilled, Fingerprint: keyE, Escrow: "gcp", Copy: "7", Shelf: "current", Checked: 10},
		Entry{Event: Drilled, Fingerprint: keyE, Escrow: "gcp", Copy: "7", Shelf: "current", Checked: 10, Opened: 1},
		Entry{Event: Saved, Fingerprint: keyA, Escrow: "usb", Copy: "q1", Shelf: "quarantine"},
	)
	r := read(t, l)
	if got, want := r.Contradicted(), map[key.Fingerprint]bool{keyB: true, keyD: true}; !maps.Equal(got, want) {
		t.Errorf("contradicted %v, want %v", got, want)
	}
	if got := r.EverProven(); !slices.Equal(got, []key.Fingerprint{keyA, keyB}) {
		t.Errorf("ever proven %v", got)
	}
	if e, ok := r.LastSaved("gcp"); !ok || e.Copy != "2" {
		t.Errorf("last saved %+v, %t", e, ok)
	}
	for _, escrow := range []string{"usb", "vault"} {
		if e, ok := r.LastSaved(escrow); ok {
			t.Errorf("saved on %s: %+v", escrow, e)
		}
	}
	for _, c := range []struct {
		escrow, copy string
		want         bool
	}{{"gcp", "1", true}, {"gcp", "2", true}, {"gcp", "q1", true}, {"gcp", "9", false}, {"usb", "q1", true}, {"usb", "1", false}} {
		if got := r.Holds(c.escrow, c.copy); got != c.want {
			t.Errorf("holds %s in %s: %t", c.copy, c.escrow, got)
		}
	}
	_, saved := (Record{}).LastSaved("gcp")
	if len((Record{}).Contradicted()) > 0 || (Record{}).EverProven() != nil || saved || (Record{}).Holds("gcp", "1") {
		t.Error("an empty record says something")
	}
}

// After a break nothing before counts as proven; what speaks against a key still does.
func TestRecordAcrossBreaks(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA), proven(keyB), Entry{Event: Contradicted, Fingerprint: keyB},
		Entry{Event: Saved, Fingerprint: keyA, Escrow: "gcp", Copy: "1", Shelf: "current"})
	put(t, l, append(content(t, l), "garbage\n"...))
	write(t, l, Entry{Event: Drilled})
	r := read(t, l)
	if stands(t, l).Known != "" || !r.Contradicted()[keyB] || len(r.EverProven()) != 2 || !r.Holds("gcp", "1") {
		t.Errorf("%+v", r)
	}
}

// Whatever stands in its place, nothing hangs, and nothing but a missing file is empty.
func TestUnreadable(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a directory":        func(p string) error { return os.MkdirAll(p, 0o700) },
		"a FIFO":             func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a symlink":          func(p string) error { return os.Symlink("/etc/passwd", p) },
		"a dangling symlink": func(p string) error { return os.Symlink("/nonexistent", p) },
		"a device":           func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
		"a socket":           func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		"a TiB": func(p string) error {
			return errors.Join(os.WriteFile(p, []byte("{}\n"), 0o600), os.Truncate(p, 1<<40))
		},
		"a file for its place": func(p string) error { os.Remove(filepath.Dir(p)); return os.WriteFile(filepath.Dir(p), nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			l := hourly(t)
			if err := os.MkdirAll(l.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := make(l.path()); err != nil {
				t.Fatal(err)
			}
			wrong := func(err error) bool {
				return err == nil || errors.Is(err, ErrNoLedger) == (name == "a file for its place")
			}
			if s, err := l.Standing(); wrong(err) || !reflect.DeepEqual(s, Standing{}) {
				t.Errorf("standing %+v, %v", s, err)
			}
			if r, err := l.Read(); wrong(err) || r.Entries != nil {
				t.Errorf("read %+v, %v", r, err)
			}
			if err := l.Append(proven(keyA)); wrong(err) {
				t.Errorf("appended: %v", err)
			}
		})
	}
}

// TestNowhere: a state directory on a disk that is not mounted may have a ledger (law 6).
func TestNowhere(t *testing.T) {
	l := hourly(t)
	if err := os.Symlink(filepath.Join(t.TempDir(), "not-mounted"), l.dir); err != nil {
		t.Fatal(err)
	}
	if s, err := l.Standing(); err == nil {
		t.Errorf("%+v", s)
	}
	if r, err := l.Read(); err == nil {
		t.Errorf("%+v", r)
	}
}

// TestDamageIsNotNothing: a file of zeros was a ledger, and what is written behind it does not
// make that forgotten. What a crash leaves of the very first entry is nothing.
func TestDamageIsNotNothing(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA))
	whole := content(t, l)
	for name, tt := range map[string]struct {
		data   []byte
		breaks int
	}{
		"zeros":             {make([]byte, 5000), 1},
		"more zeros":        {make([]byte, 5*maxLine), 1},
		"without newlines":  {bytes.ReplaceAll(bytes.Repeat(whole, 100), []byte("\n"), []byte("\r")), 1},
		"torn as it begins": {whole[:40], 0},
		"empty":             {nil, 0},
	} {
		put(t, l, tt.data)
		for range 2 {
			if r := read(t, l); len(r.Breaks) != tt.breaks {
				t.Errorf("%s: %+v", name, r.Breaks)
			}
			if s := stands(t, l); s.Known != "" {
				t.Errorf("%s: %+v", name, s)
			}
			write(t, l, Entry{Event: Parked})
		}
		if r := read(t, l); len(r.Entries) != 2 || r.Torn {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestMissing(t *testing.T) {
	l := hourly(t)
	for _, dir := range []bool{false, true} {
		if dir {
			if err := os.MkdirAll(l.dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if s, r := stands(t, l), read(t, l); !reflect.DeepEqual(s, Standing{}) || !reflect.DeepEqual(r, Record{}) {
			t.Errorf("%+v, %+v", s, r)
		}
		if _, err := os.Stat(l.path()); !errors.Is(err, fs.ErrNotExist) {
			t.Error("reading made the file")
		}
	}
	put(t, l, nil)
	if s, r := stands(t, l), read(t, l); !reflect.DeepEqual(s, Standing{}) || !reflect.DeepEqual(r, Record{}) {
		t.Errorf("empty: %+v, %+v", s, r)
	}
}

// Cut anywhere, as by a crash: the whole lines count, and the next append goes on from there.
func TestTornAnywhere(t *testing.T) {
	l := hourly(t)
	l.dir = durabletest.TmpFS(t, 1<<20) // where a sync costs nothing
	write(t, l, proven(keyA), Entry{Event: Saved, Fingerprint: keyA, Escrow: "gcp", Copy: "1", Shelf: "current"}, proven(keyB))
	whole := content(t, l)
	for n := range len(whole) + 1 {
		put(t, l, whole[:n])
		lines := bytes.Count(whole[:n], []byte("\n"))
		r := read(t, l)
		if len(r.Entries) != lines || len(r.Breaks) != 0 || r.Torn != (n > 0 && whole[n-1] != '\n') {
			t.Fatalf("%d bytes: %+v", n, r)
		}
		if s := stands(t, l); !reflect.DeepEqual(s, meaning(r)) {
			t.Fatalf("%d bytes: %+v", n, s)
		}
		write(t, l, proven(keyC))
		if after := read(t, l); len(after.Entries) != lines+1 || len(after.Breaks) != 0 || after.Torn || after.Entries[lines].Seq != uint64(lines+1) {
			t.Fatalf("%d bytes and an append: %+v", n, after)
		}
	}
}

func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(lines []string) []string // of five: proven A, proven B, saved, saved, saved
		known  key.Fingerprint
		breaks []int
		torn   bool
	}{
		{"none", func(l []string) []string { return l }, keyB, nil, false},
		{"edited before", func(l []string) []string { l[0] = strings.Replace(l[0], "web1", "web2", 1); return l }, keyB, []int{2}, false},
		{"the word itself edited", func(l []string) []string {
			l[1] = strings.Replace(l[1], string(keyB), string(keyC), 1)
			return l
		}, "", []int{3}, false},
		{"edited behind", func(l []string) []string { l[3] = strings.Replace(l[3], "web1", "web2", 1); return l }, "", []int{5}, false},
		{"white space", func(l []string) []string { l[2] += " "; return l }, "", []int{4}, false},
		{"a line taken out", func(l []string) []string { return slices.Delete(l, 3, 4) }, "", []int{4}, false},
		{"the first taken out", func(l []string) []string { return l[1:] }, keyB, []int{1}, false},
		{"two swapped", func(l []string) []string { l[2], l[3] = l[3], l[2]; return l }, "", []int{3, 4, 5}, false},
		{"one twice", func(l []string) []string { return slices.Insert(l, 3, l[2]) }, "", []int{4}, false},
		{"garbage in the middle", func(l []string) []string { return slices.Insert(l, 3, "\x00\x00\xff") }, "", []int{4, 5}, false},
		{"garbage for a line", func(l []string) []string { l[3] = "{}"; return l }, "", []int{4, 5}, false},
		{"an empty line", func(l []string) []string { return slices.Insert(l, 3, "") }, "", []int{4, 5}, false},
		{"garbage at the end", func(l []string) []string { return append(l, "garbage") }, "", []int{6}, false},
		{"garbage before the word", func(l []string) []string { l[0] = "[]"; return l }, keyB, []int{1, 2}, false},
		{"an endless line", func(l []string) []string { l[3] = strings.Repeat("x", 5*maxLine); return l }, "", []int{4, 5}, false},
		{"an entry with endless spaces", func(l []string) []string { return append(l, l[1]+strings.Repeat(" ", 5*maxLine)) }, "", []int{6}, false},
		{"an endless torn line", func(l []string) []string { l[4] += "\n" + strings.Repeat("x", 5*maxLine); return l }, keyB, nil, true},
		{"zeros at the end", func(l []string) []string { l[4] += "\n" + strings.Repeat("\x00", 4096); return l }, keyB, nil, true},
		{"windows", func(l []string) []string {
			for i := range l {
				l[i] += "\r"
			}
			return l
		}, "", []int{2, 3, 4, 5}, false},
		{"a false fingerprint", func(l []string) []string {
			l[4] = strings.Replace(l[4], string(keyA), "AAAAAAAAAAAAAAAA", 1)
			return l
		}, "", []int{5}, false},
		{"a forged chain", func(l []string) []string {
			return append(l, `{"seq":6,"time":"2026-03-01T12:00:00Z","event":"proven","fingerprint":"cccccccccccccccc"}`)
		}, keyC, []int{6}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := hourly(t)
			saved := Entry{Event: Saved, Fingerprint: keyA, Escrow: "gcp", Copy: "1", Shelf: "current"}
			write(t, l, proven(keyA), proven(keyB), saved, saved, saved)
			text := strings.Join(c.change(strings.Split(strings.TrimSuffix(string(content(t, l)), "\n"), "\n")), "\n")
			if !c.torn {
				text += "\n"
			}
			put(t, l, []byte(text))
			check := func(breaks []int) {
				t.Helper()
				r := read(t, l)
				var got []int
				for _, b := range r.Breaks {
					got = append(got, b.Line)
					if b.Why == "" {
						t.Error("a break without a reason")
					}
				}
				if !slices.Equal(got, breaks) {
					t.Errorf("breaks %+v, want %v", r.Breaks, breaks)
				}
				s := stands(t, l)
				if s.Known != c.known || !reflect.DeepEqual(s, meaning(r)) {
					t.Errorf("standing %+v, the record means %+v, want %s", s, meaning(r), c.known)
				}
			}
			check(c.breaks)
			write(t, l, saved, saved) // and go on from there
			check(c.breaks)
			write(t, l, proven(keyA))
			if s := stands(t, l); s.Known != keyA {
				t.Errorf("standing %+v after a new proof", s)
			}
		})
	}
}

// What a look at the rows told is appended only where the last word on the known key, and the open
// rotation, are those that it had read: it may have taken longer than a whole rotation.
func TestAppendIf(t *testing.T) {
	late := []Entry{proven(keyA), against(keyA), accepted(keyA, "opens")}
	opened, begun := Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB}, Entry{Event: CommitBegun}
	for _, c := range []struct {
		name   string
		before []Entry
		since  []Entry
		late   bool
	}{
		{"nothing", nil, nil, false},
		{"history", []Entry{proven(keyA)}, []Entry{{Event: Saved}, {Event: Parked}}, false},
		{"the first word", nil, []Entry{proven(keyB)}, true},
		{"another key", []Entry{proven(keyA)}, []Entry{proven(keyB)}, true},
		{"a person's word", []Entry{proven(keyA)}, []Entry{accepted(keyB, "silent")}, true},
		{"the same key again", []Entry{proven(keyA)}, []Entry{proven(keyA)}, true},
		{"contradicted", []Entry{proven(keyA)}, []Entry{against(keyA)}, true},
		{"proven and contradicted", nil, []Entry{proven(keyA), against(keyA)}, true},
		{"a rotation opened", []Entry{proven(keyA)}, []Entry{opened}, true},
		{"its commit begun", []Entry{proven(keyA), opened}, []Entry{begun}, true},
		{"rotated", []Entry{proven(keyA)}, []Entry{opened, begun, {Event: Rotated, Fingerprint: keyB}, proven(keyB)}, true},
		{"closed", []Entry{proven(keyA), opened}, []Entry{{Event: RotationClosed, Fingerprint: keyA}}, true},
		{"called off", []Entry{proven(keyA)}, []Entry{opened, {Event: RotationClosed, Fingerprint: keyA}}, false},
		{"neither", nil, []Entry{{Event: RotationClosed}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, e := range late {
				l := hourly(t)
				put(t, l, nil)
				write(t, l, c.before...)
				seen := stands(t, l)
				write(t, l, c.since...)
				before := content(t, l)
				now, err := l.AppendIf(seen, Entry{Event: Parked}, e)
				if c.late {
					if !errors.Is(err, ErrMovedOn) || !bytes.Equal(content(t, l), before) {
						t.Errorf("%s: %v\n%s", e.Event, err, content(t, l))
					}
					continue
				}
				if want := stands(t, l); err != nil || !reflect.DeepEqual(now, want) {
					t.Errorf("%s: %+v, %v, want %+v", e.Event, now, err, want)
				}
				if _, err := l.AppendIf(now, Entry{Event: Parked}); err != nil { // its own word is not another's
					t.Error(err)
				}
			}
		})
	}
}

// TestAppendIfIsTakenAway: where it cannot be told how things stand after an append, as in a file that has
// become too large to be read, nothing was appended.
func TestAppendIfIsTakenAway(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA))
	line := content(t, l)
	put(t, l, nil)
	f, err := os.OpenFile(l.path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(append([]byte("\n"), line...), most-1-int64(len(line))); err != nil {
		t.Fatal(err)
	}
	seen := stands(t, l)
	if now, err := l.AppendIf(seen, proven(keyB)); !errors.Is(err, ErrNoLedger) || !reflect.DeepEqual(now, Standing{}) {
		t.Errorf("%+v, %v", now, err)
	}
	if now := stands(t, l); seen.Known != keyA || !reflect.DeepEqual(now, seen) {
		t.Errorf("%+v became %+v", seen, now)
	}
}

// An open rotation is not forgotten over damage: the rows must be asked.
func TestRotationSurvivesDamage(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA), Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB}, Entry{Event: CommitBegun})
	put(t, l, append(content(t, l), "garbage\n"...))
	want := Standing{Rotation: &Rotation{Old: keyA, New: keyB, CommitBegun: true}}
	if s := stands(t, l); !reflect.DeepEqual(s, want) {
		t.Errorf("%+v", s)
	}
	write(t, l, Entry{Event: Parked})
	if s := stands(t, l); !reflect.DeepEqual(s, want) {
		t.Errorf("after an append: %+v", s)
	}
}

// What a newer keyguard wrote is kept, chained over, and its fields do no harm.
func TestNewerVersion(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA), Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB})
	lines := strings.Split(strings.TrimSuffix(string(content(t, l)), "\n"), "\n")
	newer := `{"seq":3,"time":"2027-01-01T00:00:00Z","event":"attested","fingerprint":"` + string(keyC) +
		`","quorum":{"of":3},"rotation":{"old":"` + string(keyA) + `","new":"` + string(keyB) + `","phase":2},"prev":"` + sum([]byte(lines[1])) + `"}`
	put(t, l, []byte(strings.Join(append(lines, newer), "\n")+"\n"))
	write(t, l, Entry{Event: Parked})
	r := read(t, l)
	if len(r.Entries) != 4 || len(r.Breaks) != 0 || r.Entries[2].Event != "attested" || !bytes.Contains(content(t, l), []byte(newer)) {
		t.Errorf("%+v", r)
	}
	if s := stands(t, l); s.Known != keyA || s.Rotation == nil || s.Rotation.New != keyB {
		t.Errorf("%+v", s)
	}
}

// Several real processes append at once: every entry is there, and the chain is whole.
func TestProcessesAppend(t *testing.T) {
	l := hourly(t)
	const processes = 4
	var children []*exec.Cmd
	for range processes {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "LEDGER_TEST_PROGRAM=many:"+l.dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, c)
	}
	ended := make(chan error, 1)
	go func() {
		var err error
		for _, c := range children {
			err = errors.Join(err, c.Wait())
		}
		ended <- err
	}()
	for running := true; running; { // readers never see a broken chain
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		if r := read(t, l); len(r.Breaks) != 0 {
			t.Fatalf("breaks %v", r.Breaks)
		}
		stands(t, l)
	}
	r := read(t, l)
	if len(r.Entries) != processes*50 || r.Torn {
		t.Fatalf("%d entries", len(r.Entries))
	}
	next := map[string]int{}
	for i, e := range r.Entries {
		if e.Seq != uint64(i+1) || e.Copy != strconv.Itoa(next[e.Person]) {
			t.Fatalf("entry %d: %+v", i, e)
		}
		next[e.Person]++
	}
}

// Killed before any of its system calls, an append leaves what was there before, and
// perhaps some of its entries.
func TestCrashAnywhere(t *testing.T) {
	for name, before := range map[string]func(*Ledger){
		"first append":  func(l *Ledger) {},
		"empty file":    func(l *Ledger) { put(t, l, nil) },
		"second append": func(l *Ledger) { write(t, l, proven(keyA)) },
		"after a torn line, world-readable": func(l *Ledger) {
			write(t, l, proven(keyA))
			put(t, l, append(content(t, l), `{"seq":2,"ti`...))
			if err := os.Chmod(l.path(), 0o644); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for n := 1; ; n++ {
				l := hourly(t)
				before(l)
				was := read(t, l)
				calls, ended := durabletest.Run(t, n, "LEDGER_TEST_PROGRAM=append:"+l.dir)
				r := read(t, l)
				if len(r.Breaks) != 0 || len(r.Entries) < len(was.Entries) ||
					len(was.Entries) > 0 && !reflect.DeepEqual(r.Entries[:len(was.Entries)], was.Entries) {
					t.Fatalf("killed before call %d of %v: %+v", n, calls, r)
				}
				if s := stands(t, l); !reflect.DeepEqual(s, meaning(r)) {
					t.Fatalf("killed before call %d of %v: %+v", n, calls, s)
				}
				if held, err := lock.Held(l.dir, lock.Ledger); held || err != nil {
					t.Fatalf("killed before call %d of %v: the lock is held: %v", n, calls, err)
				}
				write(t, l, proven(keyC))
				if after := read(t, l); len(after.Breaks) != 0 || len(after.Entries) != len(r.Entries)+1 {
					t.Fatalf("killed before call %d of %v, then: %+v", n, calls, after)
				}
				if ended {
					if len(r.Entries) != len(was.Entries)+2 {
						t.Fatalf("it ended well and wrote %+v", r)
					}
					break
				}
				steps++
			}
			if steps < 3 { // openat, write, fsync at the least
				t.Errorf("only %d steps", steps)
			}
		})
	}
}

func TestSyscallOrder(t *testing.T) {
	l := hourly(t)
	calls, _ := durabletest.Run(t, 0, "LEDGER_TEST_PROGRAM=append:"+l.dir)
	got := strings.Join(slices.DeleteFunc(calls, func(c string) bool { return c == "openat" }), " ")
	if !strings.HasSuffix(got, "fsync write fsync") {
		t.Errorf("first append: %s", got)
	}
	calls, _ = durabletest.Run(t, 0, "LEDGER_TEST_PROGRAM=append:"+l.dir)
	got = strings.Join(slices.DeleteFunc(calls, func(c string) bool { return c == "openat" }), " ")
	if !strings.HasSuffix(got, "write fsync") || strings.Count(got, "fsync") != 1 {
		t.Errorf("second append: %s", got)
	}
}

func TestFullDisk(t *testing.T) {
	l := Open(filepath.Join(durabletest.TmpFS(t, 64<<10), "state"), Options{})
	write(t, l, proven(keyA), Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB})
	filler := durabletest.Fill(t, l.dir)
	failed := false
	for range 100 { // the file's last page takes some more
		before := content(t, l)
		if err := l.Append(Entry{Event: Parked, Reason: strings.Repeat("x", 1000)}); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("error %v", err)
			}
			failed = true
			if !bytes.Equal(content(t, l), before) {
				t.Error("something is left")
			}
			break
		}
	}
	if !failed {
		t.Fatal("the disk is never full")
	}
	r := read(t, l)
	if len(r.Breaks) != 0 || r.Torn {
		t.Errorf("%+v", r)
	}
	if s := stands(t, l); s.Known != keyA || s.Rotation == nil {
		t.Errorf("%+v", s)
	}
	if err := l.Writable(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk can be written: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := l.Writable(); err != nil {
		t.Error(err)
	}
	write(t, l, proven(keyC))
	if after := read(t, l); len(after.Breaks) != 0 || len(after.Entries) != len(r.Entries)+1 {
		t.Errorf("%+v", after)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	l := hourly(t)
	write(t, l, proven(keyA))
	if err := l.Writable(); err != nil {
		t.Error(err)
	}
	if err := Open(filepath.Join(t.TempDir(), "not", "there"), Options{}).Writable(); err != nil {
		t.Error(err)
	}
	durabletest.ReadOnly(t, l.dir)
	if err := l.Writable(); !errors.Is(err, unix.EROFS) {
		t.Errorf("a read-only ledger can be written: %v", err)
	}
	if err := l.Append(proven(keyB)); !errors.Is(err, unix.EROFS) {
		t.Errorf("error %v", err)
	}
	if s := stands(t, l); s.Known != keyA {
		t.Errorf("%+v", s)
	}
}

// TestImmutable: an immutable file stops root too, and so does one that may only grow where a
// torn line is to be cut off. The lock's need not be written to.
func TestImmutable(t *testing.T) {
	const immutable, append = unix.STATX_ATTR_IMMUTABLE, unix.STATX_ATTR_APPEND
	for name, c := range map[string]struct {
		file    string
		flag    int
		torn    bool
		refuses bool
	}{
		"the ledger":                      {file: Name, flag: immutable, refuses: true},
		"the lock":                        {file: lock.Ledger, flag: immutable},
		"the directory, of a first entry": {flag: immutable, refuses: true},
		"a ledger that may only grow":     {file: Name, flag: append},
		"a torn line in one":              {file: Name, flag: append, torn: true, refuses: true},
	} {
		l := hourly(t)
		write(t, l, proven(keyA))
		if c.file == "" {
			if err := errors.Join(os.Remove(l.path()), os.Remove(filepath.Join(l.dir, lock.Ledger))); err != nil {
				t.Fatal(err)
			}
		}
		if c.torn {
			if err := os.Truncate(l.path(), 40); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(l.dir, c.file)
		durabletest.Flag(t, path, c.flag)
		switch err := l.Writable(); {
		case c.refuses && (!errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), path+":")):
			t.Errorf("%s: it can be written: %v", name, err)
		case !c.refuses && err != nil:
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Append(proven(keyB)); errors.Is(err, unix.EPERM) != c.refuses {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Somebody who holds the lock for ever does not hang the daemon's start (law 9).
func TestLockIsHeld(t *testing.T) {
	t.Parallel() // it waits
	l := hourly(t)
	write(t, l, proven(keyA))
	held, err := lock.Try(l.dir, lock.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if s := stands(t, l); s.Known != keyA { // reading needs no lock
		t.Errorf("%+v", s)
	}
	began := time.Now()
	err = l.Append(proven(keyB))
	if busy := (lock.ErrBusy{}); !errors.As(err, &busy) || time.Since(began) > 20*patience {
		t.Errorf("error %v after %v", err, time.Since(began))
	}
}

// TestNothingComesLate: an append that was given up on a disk that hung leaves nothing when
// that goes on: its caller has acted on what stood there, and so may somebody else have.
func TestNothingComesLate(t *testing.T) {
	for name, hangs := range map[string]durable.Do{
		"before it is written": durable.Resize, "as it is written": durable.Write, "as it is synced": durable.SyncFile,
	} {
		t.Run(name, func(t *testing.T) {
			l := hourly(t)
			write(t, l, proven(keyA))
			put(t, l, append(content(t, l), `{"event":"pro`...))
			synctest.Test(t, func(t *testing.T) {
				goOn := make(chan struct{})
				durable.Disk = func(c durable.Change) error {
					if c.Do == hangs {
						<-goOn
					}
					return nil
				}
				if err := l.Append(proven(keyB), Entry{Event: Parked}); !errors.Is(err, crew.ErrHangs) {
					t.Errorf("%v, want an error that says that it hangs", err)
				}
				close(goOn)
				synctest.Wait()
				durable.Disk = nil
			})
			write(t, l, Entry{Event: Saved})
			r := read(t, l)
			if len(r.Entries) != 2 || len(r.Breaks) != 0 || r.Torn || stands(t, l).Known != keyA {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestUnused: a key that was made for a first start is unused as long as it went nowhere but to escrows.
func TestUnused(t *testing.T) {
	made := Entry{Event: Made, Fingerprint: keyA}
	for _, c := range []struct {
		since  []Entry
		unused bool
	}{
		{nil, true},
		{[]Entry{{Event: Saving, Fingerprint: keyA}, {Event: Saved, Fingerprint: keyA}, {Event: Parked, Old: keyA}}, true},
		{[]Entry{{Event: Installed, Fingerprint: keyB, Old: keyA}, proven(keyB)}, true},
		{[]Entry{{Event: Installed, Fingerprint: keyA}}, false},
		{[]Entry{{Event: Restored, Fingerprint: keyA}}, false},
		{[]Entry{{Event: Imported, Fingerprint: keyA}}, false},
		{[]Entry{accepted(keyA, "silent")}, false},
		{[]Entry{proven(keyA), against(keyA)}, false},
	} {
		l := hourly(t)
		write(t, l, append([]Entry{made, {Event: Saved, Fingerprint: keyC}}, c.since...)...)
		if got := read(t, l).Unused(); len(got) > 1 || got[keyA] != c.unused || got[keyC] {
			t.Errorf("%+v: %v", c.since, got)
		}
	}
}

// randomHistory writes a history with every event, restarts with damage and all.
func randomHistory(t testing.TB, l *Ledger, r *rand.Rand) {
	keys := []key.Fingerprint{keyA, keyB, keyC}
	events := []Event{Accepted, Proven, Proven, Contradicted, Saved, Saved, Saved, RotationOpen, CommitBegun, Rotated, RotationClosed, Parked, Stopped, Started, "of-tomorrow"}
	for range r.IntN(4) {
		var batch []Entry
		for range r.IntN(8) {
			e := Entry{Event: events[r.IntN(len(events))], Fingerprint: keys[r.IntN(3)], Old: keys[r.IntN(3)], Verdict: []string{"", "opens", "silent"}[r.IntN(3)]}
			if e.Event == RotationClosed && r.IntN(2) == 0 {
				e.Fingerprint = ""
			}
			if e.Event == Stopped {
				e.Stopped = []string{"containarium.service"}
			}
			if r.IntN(10) == 0 {
				e.Reason = strings.Repeat("r", r.IntN(3000))
			}
			batch = append(batch, e)
		}
		if err := l.Append(batch...); err != nil {
			t.Fatal(err)
		}
		data := content(t, l)
		lines := strings.SplitAfter(string(data), "\n") // the last is ""
		i := r.IntN(len(lines))
		switch r.IntN(12) {
		case 0:
			lines[i] = ""
		case 1:
			lines = slices.Insert(lines, i, []string{"garbage\n", "\n", "{}\n", strings.Repeat("z", maxLine+r.IntN(9000)) + "\n"}[r.IntN(4)])
		case 2:
			lines = slices.Insert(lines, i, lines[r.IntN(len(lines))])
		case 3:
			j := r.IntN(len(lines))
			lines[i], lines[j] = lines[j], lines[i]
		case 4:
			if len(data) > 0 {
				data[r.IntN(len(data))] ^= 1 << r.IntN(8)
				lines = []string{string(data)}
			}
		case 5:
			lines = []string{string(data[:r.IntN(len(data)+1)])}
		case 6:
			lines[i] = strings.Replace(lines[i], "a", "b", 1)
		default:
			continue
		}
		put(t, l, []byte(strings.Join(lines, "")))
	}
}

// Standing, which reads from the end and stops early, says what the whole record means.
func TestStandingIsTheMeaningOfTheRecord(t *testing.T) {
	knew, broke, rotating := 0, 0, 0
	dir := durabletest.TmpFS(t, 16<<20) // where a sync costs nothing
	for seed := range uint64(1000) {
		l := Open(dir, Options{Now: func() time.Time { return start }})
		put(t, l, nil)
		randomHistory(t, l, rand.New(rand.NewPCG(seed, 0)))
		r, got := read(t, l), stands(t, l)
		if want := meaning(r); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v\n%s", seed, got, want, content(t, l))
		}
		if got.Known != "" {
			knew++
		}
		if len(r.Breaks) > 0 {
			broke++
		}
		if got.Rotation != nil {
			rotating++
		}
		// And the next append changes nothing but what it says.
		write(t, l, Entry{Event: Parked})
		if next := stands(t, l); !reflect.DeepEqual(next, got) {
			t.Fatalf("seed %d: %+v became %+v\n%s", seed, got, next, content(t, l))
		}
		for _, e := range []Entry{against(got.Known), proven(keyA), {Event: RotationClosed}} {
			if e.Event == Contradicted && e.Fingerprint == "" {
				continue
			}
			now, err := l.AppendIf(stands(t, l), e)
			if next := stands(t, l); err != nil || !reflect.DeepEqual(next, now) {
				t.Fatalf("seed %d: after %s %+v, %v; read %+v\n%s", seed, e.Event, now, err, next, content(t, l))
			}
		}
	}
	if knew < 100 || broke < 100 || rotating < 100 {
		t.Errorf("of 1000 histories %d know a key, %d are broken, %d rotate: too few to tell", knew, broke, rotating)
	}
}

// years makes a ledger of hourly proofs.
func years(t testing.TB, n int) *Ledger {
	l := hourly(t)
	var all []Entry
	for h := range n * 365 * 24 {
		all = append(all, proven(keyA))
		if h%168 == 0 {
			all = append(all, Entry{Event: Drilled, Fingerprint: keyA, Escrow: "gcp", Copy: "1", Shelf: "current", Verdict: "passed"})
		}
	}
	if err := l.Append(all...); err != nil {
		t.Fatal(err)
	}
	return l
}

type counting struct {
	io.ReaderAt
	bytes int
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.bytes += len(b)
	return c.ReaderAt.ReadAt(b, off)
}

// However long the history, a start reads its end (law 7).
func TestStandingReadsTheEnd(t *testing.T) {
	l := years(t, 1)
	write(t, l, Entry{Event: Saved}, Entry{Event: Parked})
	f, size, err := l.openRead()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &counting{ReaderAt: f}
	s, err := standing(c, size)
	if err != nil || s.Known != keyA {
		t.Fatalf("%+v, %v", s, err)
	}
	if c.bytes > 2*chunk || size < 100*chunk {
		t.Errorf("%d bytes read of %d", c.bytes, size)
	}
}

func BenchmarkStanding(b *testing.B) {
	l := years(b, 5)
	b.ReportAllocs()
	for b.Loop() {
		if s, err := l.Standing(); err != nil || s.Known != keyA {
			b.Fatal(s, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	l := years(b, 5)
	for b.Loop() {
		if r, err := l.Read(); err != nil || len(r.Breaks) != 0 {
			b.Fatal(err)
		}
	}
}

// TestPlain: what is written for nearly every event is read without encoding/json, and
// every line to the same entry.
func TestPlain(t *testing.T) {
	e := Entry{Event: Drilled, Fingerprint: keyA, Old: keyB, Escrow: "gcp", Copy: "current/1", Shelf: "current", Verdict: "passed", Checked: 7,
		Opened: 6, Total: 8, Took: time.Second, Drill: "d", Judged: true, Full: true, Unit: "u", Person: "ada", Reason: "so", Invocation: "i", Untouched: time.Unix(1, 2).UTC(), Machine: "m", Config: "c", Broken: 3,
		Tops: []string{"1 current/1", "2 current/3"}, Untried: []int{1, 3}}
	l := hourly(t)
	write(t, l, e, Entry{Event: Parked}, proven(keyA), Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB},
		Entry{Event: Stopped, Stopped: []string{"a.service", "b.service"}}, Entry{Event: CommitBegun}, proven(keyB), Entry{Event: Started}, Entry{Event: Rotated, Fingerprint: keyB})
	for line := range bytes.Lines(content(t, l)) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		var got Entry
		if ok := new(reader).plain(line, &got); !ok || !reflect.DeepEqual(got, slowly(t, line)) {
			t.Errorf("%t, %+v of %s", ok, got, line)
		}
	}
	v := reflect.ValueOf(read(t, l).Entries[0])
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && !slices.Contains([]string{"Rotation", "Stopped", "Prev"}, name) {
			t.Errorf("%s is not tried", name)
		}
	}
	for _, line := range []string{``, `{`, `{}`, `{"event":"a"`, `{"event":"a"}}`, `{"event":"a",}`, `{ "event":"a"}`, `{"event":"a\u0062"}`, `{"event":"é"}`,
		`{"event":"a","seq":01}`, `{"event":"a","seq":-1}`, `{"event":"a","seq":1234567890123456789}`, `{"event":"a","seq":1e3}`, `{"event":"a","seq":}`,
		`{"event":"a","full":false}`, `{"event":"a","full":truely}`, `{"event":"a","time":"yesterday"}`, `{"event":"a","Seq":1}`, `{"event":"a","rotation":null}`, `{"event":"a","rotation":{}}`, `{"event":"a","rotation":{"old":"a","new":"b","commit_begun":false}}`, `{"event":"a","rotation":{"old":"a"`, `{"event":"a","rotation":{"else":"a"}}`, `{"event":"a","rotation":{"old":"a"},"rotation":{"new":"b"}}`,
		`{"event":"a","tops":[]}`, `{"event":"a","tops":["1 current/1",]}`, `{"event":"a","tops":["1 current/1"}`, `{"event":"a","untried":[true]}`, `{"event":"a","untried":null}`, `["event"]`} {
		var got Entry
		if new(reader).plain([]byte(line), &got) {
			t.Errorf("%q is read as %+v", line, got)
		}
	}
}

// slowly reads a line by encoding/json.
func slowly(t testing.TB, line []byte) (e Entry) {
	t.Helper()
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return e
}

// Whatever the file holds: no panic, no hang, and both ways of reading agree, before
// and after an append.
func FuzzRead(f *testing.F) {
	l := hourly(f)
	write(f, l, proven(keyA), Entry{Event: RotationOpen, Old: keyA, Fingerprint: keyB}, Entry{Event: Contradicted, Fingerprint: keyA})
	good := content(f, l)
	good = append(good, `{"event":"saved","tops":["1 a","2 b"],"untried":[1,2],"daemon_stopped":["u"],"rotation":{"old":"aaaaaaaaaaaaaaaa","new":"bbbbbbbbbbbbbbbb","commit_begun":true}}`+"\n"...)
	seeds := [][]byte{nil, good, good[:len(good)-5], append([]byte("garbage\n"), good...), []byte("\n\n"), []byte("{}\n"), []byte("\x00"),
		[]byte(`{"event":"proven","fingerprint":"aaaaaaaaaaaaaaaa"}` + "\n"), []byte(`{"event":"rotation-closed","rotation":{}}` + "\n")}
	for _, s := range seeds {
		f.Add(s)
	}
	dir := durabletest.TmpFS(f, 64<<20)
	f.Fuzz(func(t *testing.T, data []byte) {
		for line := range bytes.Lines(data) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			var e Entry
			if new(reader).plain(line, &e) && !reflect.DeepEqual(e, slowly(t, line)) {
				t.Fatalf("%q is read as %+v", line, e)
			}
		}
		l := Open(filepath.Join(dir, strconv.Itoa(os.Getpid())), Options{})
		put(t, l, data)
		r, s := read(t, l), stands(t, l)
		if !reflect.DeepEqual(s, meaning(r)) {
			t.Fatalf("standing %+v, the record means %+v", s, meaning(r))
		}
		if len(r.Entries) == 0 && !reflect.DeepEqual(s, Standing{}) {
			t.Fatalf("no entries, but %+v", s)
		}
		write(t, l, Entry{Event: Parked})
		after := read(t, l)
		if len(after.Entries) != len(r.Entries)+1 || len(after.Breaks) != len(r.Breaks) || !reflect.DeepEqual(stands(t, l), s) {
			t.Fatalf("an append made %+v of %+v", after, r)
		}
	})
}
