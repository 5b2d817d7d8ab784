package unit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExamine(t *testing.T) {
	command := func(path string, flags ...string) []any { return []any{path, []string{path}, flags} }
	var e Examination
	e.examine("containarium.service",
		map[string]any{"After": []string{"basic.target", Watcher}},
		map[string]any{
			"ExecStartPreEx":    [][]any{command("/bin/true", "ignore-failure"), command("/usr/lib/containarium-keyguard/prestart", "privileged"), {"short"}},
			"Environment":       []string{"CONTAINARIUM_POSTGRES_PASSWORD=", "CONTAINARIUM_POSTGRES_URL=postgres://u:p@h/d", "OTHER=password"},
			"SuccessExitStatus": []any{[]int32{10}, []int32{}},
		})
	if len(e.Hooks) != 2 || e.Hooks[0].Privileged || !e.Hooks[0].IgnoreFailure || !e.Hooks[1].Privileged || e.Hooks[1].IgnoreFailure {
		t.Errorf("hooks %+v", e.Hooks)
	}
	if !slices.Equal(e.Passwords, []string{"CONTAINARIUM_POSTGRES_URL"}) || !slices.Equal(e.SuccessStatus, []int{10}) || !slices.Contains(e.After, Watcher) {
		t.Errorf("%+v", e)
	}
	var none Examination
	none.examine("x", nil, nil) // an older systemd leaves properties out
}

// TestUnasked: what takes our hook out of the daemon's unit is seen in what is in force,
// whatever the drop-ins are, and the file that does it is named.
func TestUnasked(t *testing.T) {
	command := func(path string, flags ...string) []any { return []any{path, []string{path}, flags} }
	const hook, ours = "/usr/lib/containarium-keyguard/prestart", "/usr/lib/systemd/system/containarium.service.d/zz-keyguard.conf"
	const masked, later = "/etc/systemd/system/containarium.service.d/zz-keyguard.conf", "/etc/systemd/system/containarium.service.d/zzz.conf"
	for name, tt := range map[string]struct {
		service map[string]any
		dropIns []string
		why     bool
		over    []string
	}{
		"as it is installed":                 {service: map[string]any{"ExecStartPreEx": [][]any{command(hook, "privileged")}}, dropIns: []string{"/etc/systemd/system/containarium.service.d/override.conf", ours}},
		"in /lib":                            {service: map[string]any{"ExecStartPreEx": [][]any{command(hook, "privileged")}}, dropIns: []string{"/lib/systemd/system/containarium.service.d/zz-keyguard.conf"}},
		"an empty one of the same name":      {service: map[string]any{"ExecStartPreEx": [][]any{}}, dropIns: []string{masked}, why: true, over: []string{masked}},
		"ExecStartPre= reset by a later one": {service: map[string]any{"ExecStartPreEx": [][]any{}}, dropIns: []string{ours, later}, why: true, over: []string{later}},
		"not installed":                      {service: map[string]any{"ExecStartPreEx": [][]any{command("/bin/true")}}, why: true},
		"ignored":                            {service: map[string]any{"ExecStartPreEx": [][]any{command(hook, "privileged", "ignore-failure")}}, why: true},
		"in the sandbox":                     {service: map[string]any{"ExecStartPreEx": [][]any{command(hook)}}, why: true},
		"taken for a success":                {service: map[string]any{"ExecStartPreEx": [][]any{command(hook, "privileged")}, "SuccessExitStatus": []any{[]int32{11}, []int32{}}}, why: true},
		"before systemd 244":                 {service: map[string]any{"ExecStartPre": [][]any{{hook, []string{hook}, false}}}},
		"ignored, before 244":                {service: map[string]any{"ExecStartPre": [][]any{{hook, []string{hook}, true}}}, why: true},
	} {
		b := before("containarium.service", map[string]any{"DropInPaths": tt.dropIns}, tt.service)
		if why := b.Unasked(); (why != "") != tt.why || !slices.Equal(b.Over, tt.over) {
			t.Errorf("%s: %q, over %v", name, why, b.Over)
		}
	}
}

func TestHasPassword(t *testing.T) {
	for text, want := range map[string]bool{
		"postgres://u@h/d": false, "postgres://u:secret@h/d": true, "postgres://h/d?password=x": true,
		"host=h password=x": true, "host=h user=u": false, "postgres://u:%zz@h/d": true, "": false,
	} {
		if hasPassword(text) != want {
			t.Errorf("%q", text)
		}
	}
}

func TestRealtime(t *testing.T) {
	for _, none := range []any{nil, uint64(0), ^uint64(0), "text"} {
		if !realtime(none).IsZero() {
			t.Errorf("%v is %v", none, realtime(none))
		}
	}
	if want := time.Unix(1700000000, 0); !realtime(uint64(1700000000e6)).Equal(want) {
		t.Error("wrong unit of time")
	}
}

// TestBrokenHook: a hook that cannot be run is no hook, and keeps the daemon down.
func TestBrokenHook(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "containarium-keyguard")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "prestart")
	look := func() string {
		b := Before{Hooks: []Hook{{Argv: []string{path}, Privileged: true}}}
		b.lookAtHook()
		return b.Unasked()
	}
	if why := look(); !strings.Contains(why, "is not there") {
		t.Errorf("%q", why)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if why := look(); !strings.Contains(why, "is not executable") {
		t.Errorf("%q", why)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if why := look(); why != "" {
		t.Errorf("%q", why)
	}
}
