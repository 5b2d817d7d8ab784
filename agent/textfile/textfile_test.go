package textfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteMetrics(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyguard.prom")
	list := []Metric{
		{"keyguard_parked", "Whether \\ it\nis.", []Sample{{Value: 1}}},
		{"keyguard_escrow_due_keys", "Due.", []Sample{{[]string{"escrow", "g\"c\np"}, 2}, {[]string{"escrow", "usb", "verdict", "passed"}, 0.5}}},
		{"keyguard_none", "Has no sample.", nil},
	}
	for range 2 { // the second replaces the first
		if err := Write(path, list); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = `# HELP keyguard_parked Whether \\ it\nis.
# TYPE keyguard_parked gauge
keyguard_parked 1
# HELP keyguard_escrow_due_keys Due.
# TYPE keyguard_escrow_due_keys gauge
keyguard_escrow_due_keys{escrow="g\"c\\np"} 2
keyguard_escrow_due_keys{escrow="usb",verdict="passed"} 0.5
`
	if string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the collector, which is not root, cannot read it: %v %v", info, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("something was left behind: %v %v", entries, err)
	}
	if err := Write(filepath.Join(t.TempDir(), "none", "keyguard.prom"), list); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNotWritten) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
