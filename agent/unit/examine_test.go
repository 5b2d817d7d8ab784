package unit

import (
	"slices"
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
