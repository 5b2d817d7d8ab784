// Command shell boots a guest with the package, the stand-in daemon and a shell in it:
// `make guest`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

func main() {
	suite := flag.String("suite", "trixie", "Debian release")
	deb := flag.String("deb", "", "package to install")
	daemon := flag.String("daemon", "", "program of the stand-in daemon; its unit file lies in packaging/testing/standin")
	flag.Parse()
	if err := run(*suite, *deb, *daemon); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(suite, deb, daemon string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	g, err := guest.New(ctx, suite, os.Stderr)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := g.Close(); err == nil {
			err = cerr
		}
	}()
	if err := g.Boot(ctx); err != nil {
		return err
	}
	stop() // from here on, Ctrl-C is for the shell
	ctx = context.Background()
	unit := filepath.Join("packaging", "testing", "standin", "containarium.service")
	if err := g.AddDaemon(ctx, daemon, unit, "STANDIN_INCUS=none", "CONTAINARIUM_POSTGRES_URL="+guest.Postgres); err != nil {
		return err
	}
	if _, err := g.Install(ctx, deb); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "the daemon is installed and not started: systemctl start containarium")
	err = g.Shell(ctx)
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil // the status of the last command typed
	}
	return err
}
