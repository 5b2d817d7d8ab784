package outside

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLocal: only what lies on a disk of this machine is looked at from outside.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	mounted := func(place, kind string) map[string]string {
		return map[string]string{"/": "ext4", filepath.Join(dir, place): kind}
	}
	for name, c := range map[string]struct {
		path   string
		mounts Mounts
		want   bool
	}{
		"a disk":                               {"a/b", mounted("a", "xfs"), true},
		"memory, as /dev is":                   {"a/b", mounted("a", "devtmpfs"), true},
		"FUSE":                                 {"a/b", mounted("a/b", "fuse.sshfs"), false},
		"below FUSE":                           {"a/b", mounted("a", "fuse"), false},
		"FUSE below it":                        {"a", mounted("a/b", "fuse"), false},
		"NFS beside it":                        {"a", mounted("ab", "nfs4"), true},
		"a symlink":                            {"link/b", mounted("x", "ext4"), false},
		"missing":                              {"a/c/d", mounted("x", "ext4"), true},
		"missing below FUSE":                   {"a/c", mounted("a", "fuse"), false},
		"the root hangs, nothing is looked at": {"a", map[string]string{"/": "9p"}, false},
	} {
		if got := local(filepath.Join(dir, c.path), c.mounts); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	here, err := ReadMounts()
	if err != nil {
		t.Fatal(err)
	}
	if here.Local("relative") {
		t.Error("a relative path")
	}
	if !here.Local("/proc/../") {
		t.Error("the root of this machine")
	}
}

func TestParseMounts(t *testing.T) {
	got := parse("22 27 0:21 / /proc rw,nosuid - proc proc rw\n" +
		"27 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n" +
		`30 27 0:30 / /mnt/a\040b rw shared:2 master:3 - fuse.sshfs host:/ rw` + "\n" +
		"31 27 0:30 / /mnt rw - nfs4 host:/ rw\n32 31 8:2 / /mnt rw - xfs /dev/sdb rw\nnonsense\n")
	for place, want := range map[string]string{"/proc": "proc", "/": "ext4", "/mnt/a b": "fuse.sshfs", "/mnt": "xfs"} {
		if got[place] != want {
			t.Errorf("%s: %q", place, got[place])
		}
	}
}

func TestIsStart(t *testing.T) {
	for _, c := range []struct {
		args   []string
		config string
		is     bool
	}{
		{[]string{"keyguard", "prestart"}, "", true},
		{[]string{"keyguard", "--config", "f", "prestart"}, "f", true},
		{[]string{"keyguard", "prestart", "--config=f"}, "f", true},
		{[]string{"keyguard", "prestart", "--help"}, "", false},
		{[]string{"keyguard", "prestart", "prestart"}, "", false},
		{[]string{"keyguard", "status"}, "", false},
		{[]string{"keyguard", "--config"}, "", false},
		{[]string{"keyguard"}, "", false},
		{nil, "", false},
	} {
		if config, is := IsStart(c.args); config != c.config || is != c.is {
			t.Errorf("%q: %q, %t", c.args, config, is)
		}
	}
}
