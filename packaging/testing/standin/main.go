// Command standin plays the containarium daemon (v0.67.0) for the demo and the
// tests. What keyguard has to live with, it does exactly: it loads the master key
// once or mints one without a word to anybody, whatever the table holds; it seals,
// upserts and reads rows; it alters the table at start without a timeout; it goes
// on with secrets disabled when the key does not load; and it writes the daemon's
// own log lines. All else of the daemon is left out. Its cryptography is written a
// second time here, so that a mistake in agent/rows cannot hide behind itself.
//
// Installed as /usr/local/bin/containarium, with one of the two unit files beside
// this file, it is the daemon of a guest. What the real one has no switch for has an
// environment variable, so that the unit's ExecStart stays the daemon's own:
//
//	STANDIN_KEYFILE     the key file, for sandboxes; the daemon's path is hard-coded
//	STANDIN_READ_AFTER  a file: the core containers are up when it is there
//	STANDIN_INCUS       the incus socket, or "none": an incus that has nothing to say
//	STANDIN_NO_CIPHER   if set, the cipher cannot be made of the key that was read
//	STANDIN_SOCKET      where the running daemon answers `secrets set`, `get` and `list`
//
// Usage:
//
//	containarium daemon [--postgres URL] [--app-hosting=false] …
//	containarium secrets set USER NAME [VALUE]    the value from stdin without VALUE
//	containarium secrets get USER [NAME]          a whole tenant without NAME
//	containarium secrets list
//	containarium secrets envelope-coverage [--postgres URL]
//	containarium secrets migrate-to-envelope [--postgres URL]
//
// The first three ask the running daemon, which answers with the key in its memory.
// The last two load the key file themselves, and so mint one where it is missing.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// host is where this daemon finds things.
type host struct {
	keyfile   string
	readAfter string // path of a file
	incus     string // path of the socket, or "none"
	socket    string // path of our own socket
	postgres  string // the --postgres flag
	getenv    func(string) string
}

// errUsage says that the command line was not understood.
var errUsage = errors.New("usage: containarium daemon | secrets set|get|list|envelope-coverage|migrate-to-envelope")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, in io.Reader, out io.Writer) error {
	h := host{
		keyfile: cmp.Or(getenv("STANDIN_KEYFILE"), "/etc/containarium/secrets.key"),
		incus:   cmp.Or(getenv("STANDIN_INCUS"), "/var/lib/incus/unix.socket"),
		socket:  cmp.Or(getenv("STANDIN_SOCKET"), "/var/lib/containarium/standin.sock"),
		getenv:  getenv,

		readAfter: getenv("STANDIN_READ_AFTER"),
	}
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "daemon":
		return h.daemon(ctx, args[1:])
	case "secrets":
		return h.secrets(ctx, args[1:], in, out)
	}
	return errUsage
}

func (h host) daemon(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("daemon", flag.ContinueOnError)
	f.Bool("rest", true, "accepted, as the daemon's unit passes it")
	f.String("jwt-secret-file", "", "accepted, as the daemon's unit passes it")
	hosting := f.Bool("app-hosting", true, "without it the daemon never reads the key")
	f.StringVar(&h.postgres, "postgres", "", "connection string")
	if err := f.Parse(args); err != nil {
		return err
	}
	return h.serve(ctx, *hosting)
}

func (h host) secrets(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	f := flag.NewFlagSet("secrets", flag.ContinueOnError)
	f.StringVar(&h.postgres, "postgres", "", "connection string")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	rest := f.Args()
	switch {
	case args[0] == "set" && (len(rest) == 2 || len(rest) == 3):
		var value string
		if len(rest) == 3 {
			value = rest[2]
		} else {
			b, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			value = string(b)
		}
		return h.ask(ctx, request{Do: "set", Username: rest[0], Name: rest[1], Value: value}, out)
	case args[0] == "get" && (len(rest) == 1 || len(rest) == 2):
		r := request{Do: "get", Username: rest[0]}
		if len(rest) == 2 {
			r.Name = rest[1]
		}
		return h.ask(ctx, r, out)
	case args[0] == "list" && len(rest) == 0:
		return h.ask(ctx, request{Do: "list"}, out)
	case args[0] == "envelope-coverage" && len(rest) == 0:
		return h.coverage(ctx, out)
	case args[0] == "migrate-to-envelope" && len(rest) == 0:
		return h.migrate(ctx, out)
	}
	return errUsage
}
