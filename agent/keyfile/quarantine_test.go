package keyfile

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
)

func TestQuarantineKeep(t *testing.T) {
	f := newFile(t)
	f.Owner, f.Group = 77, 78
	a, b := oldKey(t), freshKey()
	must(t, f.Keep(a, now))
	must(t, f.Keep(b, now.Add(time.Hour)))
	once := snapshot(t, f.Quarantine)
	must(t, f.Keep(a, now.Add(2*time.Hour)))
	must(t, f.Keep(b, now))
	if snapshot(t, f.Quarantine) != once {
		t.Error("a key that is there was added again")
	}
	only(t, f.Quarantine, "20260301T120000.000000Z-"+string(a.Fingerprint())+".key", "20260301T130000.000000Z-"+string(b.Fingerprint())+".key")
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(f.Quarantine, namesIn(t, f.Quarantine)[0]), &st))
	if st.Uid != 77 || st.Gid != 78 || st.Mode&0o7777 != 0o400 {
		t.Errorf("%s", ownership(&st))
	}
	// A damaged file under the key's name does not count as the key.
	must(t, os.WriteFile(filepath.Join(f.Quarantine, namesIn(t, f.Quarantine)[0]), bytes.Repeat([]byte("x"), key.Size), 0))
	must(t, f.Keep(a, now))
	only(t, f.Quarantine, "20260301T120000.000000Z-"+string(a.Fingerprint())+".key", "20260301T120000.000001Z-"+string(a.Fingerprint())+".key", "20260301T130000.000000Z-"+string(b.Fingerprint())+".key")
}

func TestQuarantineKept(t *testing.T) {
	f := newFile(t)
	if kept := keptOf(t, f); len(kept) != 0 {
		t.Errorf("without a quarantine: %v", kept)
	}
	if _, err := os.Lstat(f.Quarantine); err == nil {
		t.Error("Kept made the quarantine")
	}
	must(t, os.RemoveAll(f.dir()))
	if kept := keptOf(t, f); len(kept) != 0 {
		t.Errorf("without a directory: %v", kept)
	}
	must(t, os.MkdirAll(f.dir(), 0o700))
	must(t, os.MkdirAll(f.Quarantine, 0o700))
	foreign := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, b := range map[string][]byte{
		filepath.Join(f.Quarantine, stamp(now)+"-0123456789abcdef.key"):             old,
		filepath.Join(f.Quarantine, stamp(now.Add(time.Second))+"-malformed.bin"):   old[:31],
		filepath.Join(f.Quarantine, stamp(now.Add(2*time.Second))+"-malformed.bin"): mangled(),
		filepath.Join(f.Quarantine, "put here by a person"):                         []byte(fmt.Sprintf("%x\n", fresh)),
		filepath.Join(f.Quarantine, durable.TempPrefix+"1"):                         fresh,
		filepath.Join(f.Quarantine, ".hidden"):                                      fresh,
		filepath.Join(f.dir(), asidePrefix+stamp(now.Add(3*time.Second))):           old, // copied already
		filepath.Join(f.dir(), asidePrefix+stamp(now.Add(4*time.Second))):           bytes.Repeat([]byte("n"), key.Size),
		filepath.Join(f.dir(), asidePrefix+stamp(now.Add(5*time.Second))):           {},
		filepath.Join(f.dir(), ".containarium-doctor-1"):                            fresh,
		filepath.Join(f.dir(), "secrets.key"):                                       fresh,
		filepath.Join(f.dir(), stamp(now)+"-0123456789abcdef.key"):                  fresh, // not the quarantine
		filepath.Join(f.dir(), asidePrefix+"of another form"):                       []byte("odd"),
	} {
		put(t, name, b)
		must(t, os.Chtimes(name, foreign, foreign))
	}
	must(t, os.Mkdir(filepath.Join(f.Quarantine, "a directory"), 0o700))
	must(t, os.Chtimes(filepath.Join(f.Quarantine, "a directory"), foreign.Add(-1), foreign.Add(-1)))
	want := []struct {
		at  time.Time
		key []byte
		enc key.Encoding
		why string
	}{
		{now.Add(4 * time.Second), bytes.Repeat([]byte("n"), key.Size), key.Raw, ""},
		{now.Add(2 * time.Second), nil, "", fmt.Sprintf("%d bytes instead of 32, destroyed by a conversion to UTF-8", len(mangled()))},
		{now.Add(time.Second), nil, "", "31 bytes instead of 32"},
		{now, old, key.Raw, ""},
		{foreign, nil, "", "3 bytes instead of 32"},
		{foreign, fresh, key.Raw, ""},
		{foreign, fresh, key.Hex, "hex text of a key"},
		{foreign.Add(-1), nil, "", "a directory"},
	}
	kept := keptOf(t, f)
	if len(kept) != len(want) {
		t.Fatalf("kept %d, want %d: %v", len(kept), len(want), kept)
	}
	for i, w := range want {
		if k := kept[i]; !k.Time.Equal(w.at) || !bytes.Equal(k.Key.UnsafeBytes(), w.key) || k.Encoding != w.enc || k.Why != w.why {
			t.Errorf("%d: %v, want %v", i, k, w)
		}
	}
}

func TestSweepLeavesOthers(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	for _, n := range []string{".containarium-doctor-1", "secrets.key.bak", "keyguard-1", "jwt.secret"} {
		put(t, filepath.Join(f.dir(), n), fresh)
	}
	before := snapshot(t, filepath.Dir(f.dir()))
	must(t, f.Sweep(now.Add(time.Hour)))
	if snapshot(t, filepath.Dir(f.dir())) != before {
		t.Error("something changed, or the lock was taken for nothing")
	}
	must(t, os.RemoveAll(f.dir()))
	must(t, f.Sweep(now))
}

func TestSweepAges(t *testing.T) {
	f := newFile(t)
	aside := func(at time.Time) string { return filepath.Join(f.dir(), asidePrefix+stamp(at)) }
	odd := filepath.Join(f.dir(), durable.TempPrefix+"1")
	must(t, os.MkdirAll(f.Quarantine, 0o700))
	temp, whole := filepath.Join(f.Quarantine, durable.TempPrefix+"2"), filepath.Join(f.Quarantine, durable.TempPrefix+"3")
	for path, b := range map[string][]byte{whole: fresh, aside(now): old, aside(now.Add(time.Hour)): old[:31], aside(now.Add(time.Second)): nil, odd: old[:5], temp: old[:7]} {
		put(t, path, b)
	}
	for _, path := range []string{odd, temp, whole} {
		must(t, os.Chtimes(path, now, now))
	}
	must(t, f.Sweep(now.Add(sweepAge)))
	only(t, f.dir(), filepath.Base(aside(now)), filepath.Base(aside(now.Add(time.Second))), filepath.Base(aside(now.Add(time.Hour))), filepath.Base(odd))
	for _, b := range [][]byte{old, old[:31], old[:5]} {
		if !holds(t, f.Quarantine, b) {
			t.Errorf("%q was not copied at once", b)
		}
	}
	if _, err := os.Lstat(temp); err != nil {
		t.Error("a young file was removed")
	}
	must(t, f.Sweep(now.Add(sweepAge+10*time.Second)))
	// What seems to be of the future stays until the clock is there.
	only(t, f.dir(), filepath.Base(aside(now.Add(time.Hour))))
	for _, path := range []string{temp, whole} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s, an old half-written file, stays", path)
		}
	}
	if !holds(t, f.Quarantine, fresh) {
		t.Error("a whole key was destroyed (law 3)")
	}
	must(t, f.Sweep(now.Add(3*time.Hour)))
	only(t, f.dir())
	if n := len(namesIn(t, f.Quarantine)); n != 4 {
		t.Errorf("%d in the quarantine", n)
	}
}

// TestNothingLetsAKeyOut looks for the key in every error and every way to print what
// this package returns (law 8).
func TestNothingLetsAKeyOut(t *testing.T) {
	k := oldKey(t)
	f := newFile(t)
	var errs []error
	fails := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("it did not fail")
		}
		errs = append(errs, err)
	}
	// Every file name on the way to a failure.
	put(t, f.Path, old)
	seen := look(t, f)
	put(t, f.next(), old)
	fails(f.StageNext(k))
	fails(f.Install(Seen{}, k, now))
	fails(f.UseNext(seen, now))
	fails(f.Tighten(Seen{}))
	must(t, os.MkdirAll(filepath.Dir(f.Quarantine), 0o700))
	put(t, f.Quarantine, old)
	fails(f.Keep(k, now))
	fails(f.KeepNext(now))
	fails(f.Install(look(t, f), freshKey(), now))
	fails(f.Park(look(t, f), now))
	fails(f.Install(seen, k, now))
	fails(f.Sweep(now.Add(time.Hour)))
	must(t, os.Remove(f.Quarantine))

	var things []any
	for _, err := range errs {
		things = append(things, err)
	}
	must(t, f.Sweep(now))
	must(t, f.Install(look(t, f), k, now))
	kept := keptOf(t, f)
	if len(kept) == 0 {
		t.Fatal("nothing kept")
	}
	things = append(things, look(t, f), new(look(t, f)), kept, kept[0], f, struct{ s Seen }{look(t, f)})
	for _, s := range states() {
		g := newFile(t)
		s.make(t, g)
		things = append(things, look(t, g))
	}
	for _, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			keytest.NoLeak(t, fmt.Sprintf("%T %s", thing, verb), fmt.Appendf(nil, verb, thing), k)
		}
		if out, err := json.Marshal(thing); err == nil {
			keytest.NoLeak(t, "json", out, k)
		}
		var b bytes.Buffer
		gob.NewEncoder(&b).Encode(thing) //nolint:errcheck // what it wrote is looked at
		slog.New(slog.NewTextHandler(&b, nil)).Info("", "it", thing)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("", "it", thing)
		keytest.NoLeak(t, "gob and slog", b.Bytes(), k)
	}
	if _, err := json.Marshal(look(t, f)); !errors.Is(err, key.ErrMarshal) {
		t.Errorf("json of Seen: %v, want ErrMarshal", err)
	}
}
