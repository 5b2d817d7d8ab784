package guest

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// Postgres is where the guest's own database is.
const Postgres = "postgres://containarium:containarium@127.0.0.1:5432/containarium?sslmode=disable"

// AddDaemon makes the stand-in the daemon of the guest, with one of its unit files,
// which must be called containarium.service or containarium-daemon.service, and these
// variables (NAME=value). It is enabled, and not started.
func (g *Guest) AddDaemon(ctx context.Context, program, unit string, environment ...string) error {
	text, err := os.ReadFile(unit)
	if err != nil {
		return err
	}
	name := unit[strings.LastIndex(unit, "/")+1:]
	var drop strings.Builder
	drop.WriteString("[Service]\n")
	for _, v := range environment {
		fmt.Fprintf(&drop, "Environment=%s\n", strings.ReplaceAll(v, "%", "%%"))
	}
	if err := g.Copy(ctx, program, "/usr/local/bin/containarium", 0o755); err != nil {
		return err
	}
	if err := g.Write(ctx, "/etc/systemd/system/"+name, string(text), 0o644); err != nil {
		return err
	}
	if err := g.Write(ctx, "/etc/systemd/system/"+name+".d/pool.conf", drop.String(), 0o600); err != nil {
		return err
	}
	_, err = g.Run(ctx, "systemctl daemon-reload; systemctl enable "+name)
	return err
}
