package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Cache is where root directories lie between runs, one for each suite, and below
// run/ what each guest changed of its own. It is outside the checkout, and may be
// removed whenever no guest runs: `make clean-guests`.
const Cache = "/var/cache/containarium-keyguard-e2e"

// Suites are the Debian releases that guests are made of: 12 with systemd 252, and 13
// with systemd 257, near the oldest that the daemon is documented for.
var Suites = []string{"bookworm", "trixie"}

// packages is what a guest has beyond debootstrap's minbase. A change makes new roots.
const packages = "systemd,systemd-sysv,dbus,postgresql,iproute2,strace,curl"

// more is what the guests of one suite have besides: what Ansible's modules run by. It is
// Debian 12, since the Ansible of a host with that reaches no later Python.
var more = map[string]string{"bookworm": ",python3-apt"}

// settle turns a fresh root into a guest: the database that the daemon finds on its
// host, its directories, a journal that survives a reboot, and nothing that starts by
// itself in the middle of a test. apt reads its lists at each call, and needs none for a
// file that depends on nothing.
const settle = `
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
set -- $(pg_lsclusters --no-header)
pg_conftool "$1" "$2" set port 5432 # debootstrap saw the host's network, where it may be taken
pg_ctlcluster --skip-systemctl-redirect "$1" "$2" start
su postgres -c "psql -qc \"CREATE ROLE containarium LOGIN PASSWORD 'containarium'\" -c 'CREATE DATABASE containarium OWNER containarium'"
pg_ctlcluster --skip-systemctl-redirect "$1" "$2" stop
install -d -m 0700 /etc/containarium
install -d /var/lib/incus /var/log/journal
echo keyguard-guest >/etc/hostname
echo '127.0.0.1 localhost keyguard-guest' >/etc/hosts
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer
systemd-machine-id-setup
rm -rf /var/lib/apt/lists/* /var/cache/apt/*
`

// Root returns the root directory of a suite, and makes it where there is none for
// the present list of packages: about a minute, told on log. It stays until the file is
// closed, which holds a lock on it.
func Root(ctx context.Context, suite string, log io.Writer) (string, *os.File, error) {
	if os.Geteuid() != 0 {
		return "", nil, errors.New("guests need root")
	}
	sum := sha256.Sum256([]byte(suite + packages + more[suite] + settle))
	dir := filepath.Join(Cache, fmt.Sprintf("%s-%x", suite, sum[:6]))
	if err := os.MkdirAll(filepath.Join(Cache, "run"), 0o700); err != nil {
		return "", nil, err
	}
	making, err := lock(filepath.Join(Cache, suite+".lock"), os.O_CREATE|os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer making.Close() //nolint:errcheck // held a lock, nothing else
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = makeRoot(ctx, suite, dir, log)
		if err != nil {
			return "", nil, err
		}
	}
	used, err := holdRoot(dir, unix.LOCK_SH)
	return dir, used, err
}

// holdRoot takes the lock that says of a root that guests run on it.
func holdRoot(dir string, how int) (*os.File, error) { return lock(dir, os.O_RDONLY, how) }

// sweep removes the directories that a pattern names and nobody holds: what guests left that could
// not be closed, and roots. One of another checkout may be held.
func sweep(pattern string, hold func(dir string, how int) (*os.File, error)) error {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		held, err := hold(dir, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) { // or whoever had it removed it now
			continue
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(dir)
		held.Close() //nolint:errcheck // the removal's error counts
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRoot is for whoever holds the suite's lock.
func makeRoot(ctx context.Context, suite, dir string, log io.Writer) error {
	mirror, proxy, err := mirror(ctx)
	if err != nil {
		return err
	}
	if err := sweep(filepath.Join(Cache, suite+"-*"), holdRoot); err != nil {
		return err
	}
	fmt.Fprintf(log, "making a guest root of Debian %s in %s\n", suite, dir)
	half := dir + ".half"
	// In namespaces of its own, so that neither the mounts nor the processes of one
	// that is interrupted stay behind.
	private := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
		if proxy != "" {
			cmd.Env = append(cmd.Env, "http_proxy="+proxy, "https_proxy="+proxy)
		}
		return cmd
	}
	for _, cmd := range []*exec.Cmd{
		private("debootstrap", "--variant=minbase", "--include="+packages+more[suite], suite, half, mirror),
		private("unshare", "--net", "--", "sh", "-ec", `ip link set lo up; mount -t proc proc "$1/proc"; exec chroot "$1" /bin/sh -c "$2"`, "settle", half, settle),
	} {
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("cannot make a guest root of %s: %w\n%s", suite, err, tail(out.String()))
		}
	}
	return os.Rename(half, dir)
}

// mirror asks this machine's apt where it has Debian's main archive from, and through
// which proxy. KEYGUARD_DEBIAN_MIRROR overrides it, for machines that run something else.
func mirror(ctx context.Context) (url, proxy string, err error) {
	out, err := exec.CommandContext(ctx, "apt-config", "shell", "proxy", "Acquire::http::Proxy").Output()
	if err != nil {
		return "", "", fmt.Errorf("apt-config: %w", err)
	}
	proxy = strings.Trim(strings.TrimPrefix(strings.TrimSpace(string(out)), "proxy="), "'")
	if url = os.Getenv("KEYGUARD_DEBIAN_MIRROR"); url != "" {
		return url, proxy, nil
	}
	out, err = exec.CommandContext(ctx, "sh", "-c", `. /etc/os-release; [ "$ID" = debian ] && apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | while read -r uri release component; do
		[ "$release $component" != "$VERSION_CODENAME main" ] || { echo "$uri"; break; }
	done`).Output()
	if err != nil || len(out) == 0 {
		return "", "", errors.New("this machine's apt names no Debian archive; set KEYGUARD_DEBIAN_MIRROR to the address of one")
	}
	return strings.TrimSpace(string(out)), proxy, nil
}

// lock takes a flock(2) on a file or a directory, and waits for it unless how says no.
func lock(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close() //nolint:errcheck // the lock's error counts
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// tail is the end of a long output, where the reason stands.
func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}
