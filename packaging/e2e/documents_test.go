//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
)

// block is a fenced block of a document.
type block struct{ section, info, text string }

// blocks reads a document. What it shows to be typed stands in fences: whatever is merely
// indented would escape the tests.
func blocks(t *testing.T, path string) (list []block) {
	t.Helper()
	data, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	section, inside, last := "", false, ""
	for line := range strings.Lines(string(data)) {
		switch fence, isFence := strings.CutPrefix(line, "```"); {
		case isFence && !inside:
			list = append(list, block{section: section, info: strings.TrimSpace(fence)})
			inside = true
		case isFence:
			inside = false
		case inside:
			list[len(list)-1].text += line
		case strings.HasPrefix(line, "## "):
			section = strings.TrimSpace(line[3:])
		case strings.HasPrefix(line, "    ") && strings.TrimSpace(last) == "":
			t.Errorf("%s: an indented block, which no test runs: %s", path, line)
		}
		last = line
	}
	return list
}

// follower types what a document says, in a guest, line by line.
type follower struct {
	machine
	answers map[string]string // what is typed at the terminal that the line asks at
	exits   map[string]string // of lines that do not end with 0, and have no "# exit N"
	typed   map[string]bool
}

var typedLine = regexp.MustCompile(`^(.*?)(?: +#(?: exit (\d+))?.*)?$`)

func (f *follower) follow(b block) {
	f.Helper()
	for line := range strings.Lines(b.text) {
		words := typedLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		l, want := words[1], words[2]
		if l == "" {
			continue
		}
		if f.typed == nil {
			f.typed = map[string]bool{}
		}
		f.typed[l] = true
		if want == "" {
			want = f.exits[l]
		}
		if want == "" {
			want = "0"
		}
		do := l
		if answer, asked := f.answers[l]; asked {
			do = fmt.Sprintf("printf '%s' | script -qec '%s' /dev/null", answer, l)
		}
		// What it printed is shown where it is wrong; of paper, which prints the key, never.
		out := f.run(fmt.Sprintf("cd /root; umask 077; code=0; { %s; } >out 2>err || code=$?; [ $code = %s ] || { case '%s' in *paper*) ;; *) cat out;; esac; cat err; }; echo exit $code", do, want, l))
		if !strings.HasSuffix(out, "exit "+want) {
			f.Errorf("%s: %s: not exit %s, but\n%s", b.section, l, want, out)
		}
	}
}

// followed fails the test where something was foreseen that the document does not say.
func (f *follower) followed(least int) {
	f.Helper()
	for _, lines := range []map[string]string{f.answers, f.exits} {
		for l := range lines {
			if !f.typed[l] {
				f.Errorf("%q is not in the document", l)
			}
		}
	}
	if len(f.typed) < least {
		f.Errorf("only %d lines were run", len(f.typed))
	}
}

// host makes a guest with a daemon that is older than keyguard, a tenant's secret, and a
// stick.
func (m machine) host() {
	m.Helper()
	m.addDaemon(unit)
	m.startDaemon()
	m.run("containarium secrets set alice TOKEN tea; " + stick("/mnt/keys"))
}

// stick mounts what lies neither on the guest's disk nor, as it shows, in memory.
func stick(point string) string {
	under := "/run/stick" + point
	return fmt.Sprintf("mkdir -p %[1]s %[2]s/lower %[2]s/upper %[2]s/work; mount -t overlay -o lowerdir=%[2]s/lower,upperdir=%[2]s/upper,workdir=%[2]s/work stick %[1]s; chmod 0700 %[1]s",
		point, under)
}

// TestReadme follows README.md in a new guest. What its blocks are for stands behind their
// language: `sh checkout` is typed in a checkout, `sh rpm` on an RPM host, and `toml
// google` needs Google.
func TestReadme(t *testing.T) {
	document := blocks(t, "README.md")
	inNewGuests(t, func(m machine) {
		m.addRepository(deb)
		m.check(m.g.Boot(m.ctx))
		m.host()
		m.startRepository()
		m.check(m.g.Copy(m.ctx, newer, "/root/dist/"+filepath.Base(newer), 0o644))
		m.run(`[ -e /usr/bin/sudo ] || { printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo; chmod 0755 /usr/local/bin/sudo; }`)
		f := &follower{machine: m,
			answers: map[string]string{"sudo keyguard init": "\\ny\\n", "keyguard rotate": "y\\n"},
			exits:   map[string]string{"keyguard doctor": "12"}}
		for _, b := range document {
			switch b.info {
			case "sh":
				b.text = strings.ReplaceAll(b.text, "https://packages.example", webURL)
				f.follow(b)
			case "toml":
				m.run("cat >>/etc/containarium-keyguard/keyguard.toml <<'EOF'\n" + b.text + "EOF")
			}
		}
		f.followed(12)
		m.want("containarium secrets get alice TOKEN", "tea")
	})
}

// TestReadmeElsewhere looks at the blocks of README.md that no guest can run.
func TestReadmeElsewhere(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, b := range blocks(t, "README.md") {
		seen[b.info]++
		switch b.info {
		case "sh", "toml": // TestReadme
		case "sh checkout": // the target is one of those that everybody runs
			for line := range strings.Lines(b.text) {
				target := regexp.MustCompile(`^(?:sudo )?make (\w+)`).FindStringSubmatch(line)
				if target == nil || !regexp.MustCompile(`(?m)^`+target[1]+`:`).Match(makefile) {
					t.Errorf("no target of the Makefile: %s", line)
				}
			}
		case "sh rpm": // TestDnfRepository has dnf install it
			if !strings.HasSuffix(b.text, "/etc/yum.repos.d/containarium-keyguard.repo https://packages.example/rpm/containarium-keyguard.repo\nsudo dnf install containarium-keyguard\n") {
				t.Errorf("%q", b.text)
			}
		case "toml google":
			if c, err := config.Parse([]byte(b.text), "README.md"); err != nil || c.Wrong() != nil || len(c.Escrows) != 1 {
				t.Error(err)
			}
		case "hcl": // the policy that the fake Vault has in every test
			got := vault.Policy{}
			for _, m := range regexp.MustCompile(`path "(\S+)" +\{ capabilities = \[(.*)\] \}`).FindAllStringSubmatch(b.text, -1) {
				got[m[1]] = strings.Split(strings.ReplaceAll(m[2], `"`, ""), ", ")
			}
			if want := vault.Keyguard(2, "containarium", "h1/secrets-master"); !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("the policy is %v, want %v", got, want)
			}
		default:
			t.Errorf("%s: nothing runs %q", b.section, b.info)
		}
	}
	for _, info := range []string{"sh", "toml", "sh checkout", "sh rpm", "toml google", "hcl"} {
		if seen[info] == 0 {
			t.Errorf("README.md has no block %q", info)
		}
	}
}

// TestOperatorsManual follows docs/manual.md.
func TestOperatorsManual(t *testing.T) {
	document := blocks(t, "docs/manual.md")
	// What happens to the host before a section.
	before := map[string]string{
		"The key is gone or wrong": "rm " + keyfile,
		"A new machine": "systemctl stop containarium containarium-keyguard; rm -r " + keyfile + " /var/lib/containarium-keyguard/* /run/containarium-keyguard/*; " +
			"systemctl start containarium-keyguard",
		// The daemon mints, and a tenant writes, on a start without the hook.
		"A split table": `systemctl stop containarium containarium-keyguard
			mkdir -p /run/systemd/system/containarium.service.d
			ln -s /dev/null /run/systemd/system/containarium.service.d/zz-keyguard.conf
			systemctl daemon-reload
			mv ` + keyfile + ` /root/right
			systemctl start containarium
			until containarium secrets set bob TOKEN coffee; do sleep 0.1; done
			systemctl stop containarium
			rm /run/systemd/system/containarium.service.d/zz-keyguard.conf
			systemctl daemon-reload
			keyguard import --escrow-only <` + keyfile + ` || [ $? = 14 ]
			mv /root/right ` + keyfile + `
			systemctl start containarium-keyguard containarium`,
		"An old dump": `su postgres -c 'pg_dump containarium' >/root/containarium.sql`,
	}
	inGuests(t, func(m machine) {
		m.host()
		m.install(deb)
		f := &follower{machine: m}
		section, prepared := "", 0
		for _, b := range document {
			if damage, ok := before[b.section]; ok && b.section != section {
				m.run(damage)
				prepared++
			}
			section = b.section
			switch {
			case b.info == "sh":
				f.follow(b)
			case b.section == "Who may do what" && (b.info == "hcl" || b.info == "yaml"): // Terraform's and Ansible's
			case b.section == "A key in parts" && b.info == "toml": // a part of it; the script split has it whole
			default:
				m.Errorf("%s: nothing runs %q", b.section, b.info)
			}
		}
		f.followed(20)
		if prepared != len(before) {
			m.Errorf("%d of %d sections that need something were found", prepared, len(before))
		}
		m.want("containarium secrets get alice TOKEN; containarium secrets get bob TOKEN", "teacoffee")
	})
}

// noNight says of the lines of SECURITY.md's table, by what is tried there, which leave nothing
// on the host that somebody could be woken for.
var noNight = map[string]string{
	"reads arguments, environment, journal, errors, core dumps": "nothing is there",
	"writes names and values that confuse":                      "they are shown, and no more",
	"has the daemon print a line of its journal that he chose":  "it steers nothing",
	"listens, redirects, plays a store":                         "such a store cannot answer, as one that cannot be reached",
	"serves a package that was tampered with":                   "it is not installed",
}

// TestThreatModel: each line of SECURITY.md's table of attackers names tests that exist, and has
// a night in TestNights where it is a state of a host.
func TestThreatModel(t *testing.T) {
	document, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{}
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, f := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			exist[string(f[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(document), "| shown by |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	lines := strings.Split(table, "\n")
	if len(lines) < 10 {
		t.Fatalf("the table has only %q", lines)
	}
	told := map[string]bool{}
	for _, n := range nights {
		for _, tried := range n.threats {
			told[tried] = true
		}
	}
	for _, line := range lines {
		tried := strings.TrimSpace(strings.Split(line, "|")[2])
		if told[tried] == (noNight[tried] != "") {
			t.Errorf("a night must have it, or noNight a reason that none has, and not both: %s", line)
		}
		delete(told, tried)
		names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("no test shows that %s", line)
		}
		for _, name := range names {
			if !exist[name[1]] {
				t.Errorf("there is no %s, which is to show that %s", name[1], line)
			}
		}
	}
	for tried := range told {
		t.Errorf("a night is of a line that is not there: %s", tried)
	}
}
