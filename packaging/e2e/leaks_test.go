//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

// remains prints what a host has told or left anywhere but where keys are kept: of each entry of the
// journal what it says and the command line it is from, each once; and files of less than a megabyte
// of the state and runtime directories, of metrics and of whoever makes temporary ones.
const remains = `journalctl --sync
journalctl -q --no-pager -a -o export --output-fields=MESSAGE,_CMDLINE | grep -av '^__' | sort -u
find /run/containarium-keyguard /var/lib/containarium-keyguard /var/lib/prometheus /tmp /var/tmp \
	-path ` + quarantine + ` -prune -o -type f -size -1024k -exec cat {} + 2>/dev/null || true`

// present prints the keys of 32 bytes that stand on a host, one a line in base64.
const present = `find /etc/containarium ` + quarantine + ` -type f -size 32c -exec sh -c 'for f; do base64 -w 0 "$f"; echo; done' sh {} + 2>/dev/null || true`

// keys are those that stand on a host now.
func keys(ctx context.Context, g *guest.Guest) (list []key.Key) {
	out, err := g.Run(ctx, present)
	if err != nil {
		return nil // it is not booted, any more or yet
	}
	for line := range strings.Lines(out) {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil {
			continue
		}
		if k, err := key.New(raw); err == nil {
			list = append(list, k)
		}
	}
	return list
}

// leaked fails a test whose guest has told or left any of its keys, or of those that it had
// before (law 8).
func leaked(t *testing.T, g *guest.Guest, before ...key.Key) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	all := append(keys(ctx, g), before...)
	if len(all) == 0 {
		return
	}
	out, err := g.Run(ctx, remains)
	if form := keytest.Find([]byte(out), all...); err != nil || form != "" {
		t.Errorf("a key is in the journal, or in a file that keeps none, of the guest: %s, %v", form, err)
	}
}
