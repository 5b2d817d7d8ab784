//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestOperatorsManual follows docs/manual.md on a host whose daemon is older than keyguard:
// each line of its sh blocks, in order, with the exit status written beside it.
func TestOperatorsManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/manual.md")
	if err != nil {
		t.Fatal(err)
	}
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
	}
	line := regexp.MustCompile(`^(.*?)(?: +# exit (\d+))?$`)
	inGuests(t, func(m machine) {
		m.addDaemon(unit)
		m.startDaemon()
		m.run("containarium secrets set alice TOKEN tea; mkdir /mnt/keys; mount -t tmpfs -o mode=0700 none /mnt/keys")
		m.install(deb)
		ran := 0
		for section := range strings.SplitSeq(string(manual), "\n## ") {
			title, text, _ := strings.Cut(section, "\n")
			if damage, ok := before[title]; ok {
				m.run(damage)
			}
			for i, block := range strings.Split(text, "```sh\n") {
				if i == 0 {
					continue
				}
				block, _, _ = strings.Cut(block, "```")
				for l := range strings.Lines(block) {
					words := line.FindStringSubmatch(strings.TrimSpace(l))
					want := words[2]
					if want == "" {
						want = "0"
					}
					out := m.run(fmt.Sprintf("code=0; { %s; } 2>&1 || code=$?; echo exit $code", words[1]))
					if !strings.HasSuffix(out, "exit "+want) {
						m.Errorf("%s: %s: not exit %s, but\n%s", title, words[1], want, out)
					}
					ran++
				}
			}
		}
		if ran < 20 {
			m.Errorf("only %d lines were run", ran)
		}
		m.want("containarium secrets get alice TOKEN; containarium secrets get bob TOKEN", "teacoffee")
	})
}
