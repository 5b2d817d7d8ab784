package run

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFollow shows each end that a command can come to.
func TestFollow(t *testing.T) {
	for _, c := range []struct {
		name, script string
		lines        []string
		is           error
		says         string
	}{
		{"it ends", "echo one; printf 'two\\nrest'", []string{"one", "two", "rest"}, io.EOF, "sh: EOF"},
		{"it fails", "echo one; echo no journal >&2; exit 3", []string{"one"}, ErrExit, "with status 3: no journal"},
		{"it is killed", "echo one; kill -9 $$", []string{"one"}, nil, "signal: killed"},
		{"it leaves a child with its output", "echo one; sleep 100 & exit 0", []string{"one"}, nil, ""},
		{"what it leaves has left its group", "echo one; setsid sleep 100 & exit 0", []string{"one"}, nil, ""},
		{"a line without an end", "head -c 2000000 /dev/zero", nil, nil, "token too long"},
		{"nothing", "exit 0", nil, io.EOF, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lines []string
			began := time.Now()
			err := Follow(context.Background(), Spec{Path: "/bin/sh", Args: []string{"-c", c.script}}, func(l []byte) { lines = append(lines, string(l)) })
			var e *Error
			if !errors.As(err, &e) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if !slices.Equal(lines, c.lines) {
				t.Errorf("%q instead of %q", lines, c.lines)
			}
			if took := time.Since(began); took > 90*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		err := Follow(context.Background(), Spec{Path: "/no/such"}, func([]byte) {})
		if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// TestFollowContext shows that a command dies with its context, and what it started too.
func TestFollowContext(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(context.Background())
	began := time.Now()
	err := Follow(ctx, Spec{Path: "/bin/sh", Args: []string{"-c", `sleep 100 & echo $$ $! > "$0"; echo up; wait`, pids}}, func([]byte) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(began); took > 90*time.Second {
		t.Errorf("it took %s", took)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(text)) {
		// The child of the child is init's to reap, and until then a zombie: Z in proc(5).
		for {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if time.Since(began) > 90*time.Second {
				t.Fatalf("process %s lives", pid)
			}
			time.Sleep(time.Millisecond)
		}
	}
}
