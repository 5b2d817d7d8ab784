// Command fake-vault runs the fake Vault of agent/escrow/escrowtest/vault as a program,
// for people and for tests that need it in a process of its own.
//
// It mounts a KV engine, prints where it listens and a token that may do everything, one
// NAME=value a line, and then serves until SIGTERM:
//
//	VAULT_ADDR=http://127.0.0.1:8200
//	VAULT_TOKEN=hvs.…
//	CONTROL=http://127.0.0.1:8201
//
// The control address takes the requests described at vault.Control:
//
//	curl "$CONTROL/token?ttl=720h&path=h1/secrets-master" > vault.token
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/packaging/testing/control"
)

func main() { control.Main("fake-vault", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	var o vault.Options
	flags := flag.NewFlagSet("fake-vault", flag.ContinueOnError)
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8200", "address of the API")
	controlListen := flags.String("control", "127.0.0.1:8201", "address of the control endpoint, http, on loopback")
	flags.StringVar(&o.Namespace, "namespace", "", "serve this namespace alone")
	flags.StringVar(&o.Dir, "dir", "", "keep the state in this directory")
	mount := flags.String("mount", "containarium", "where the KV engine is")
	version := flags.Int("kv", 2, "its version")
	cert := flags.String("tls-cert", "", "serve by TLS with this certificate, PEM")
	certKey := flags.String("tls-key", "", "and this private key")
	err := flags.Parse(args)
	if err != nil {
		return err
	}
	if o.TLS, err = control.TLS(*cert, *certKey); err != nil {
		return err
	}
	web, err := control.Listen(*controlListen)
	if err != nil {
		return err
	}
	s, err := vault.Start(o)
	if err != nil {
		return errors.Join(err, web.Close())
	}
	defer s.Close()
	if !s.Mounted(*mount) {
		s.Mount(*mount, *version)
	}
	fmt.Fprintf(out, "VAULT_ADDR=%s\nVAULT_TOKEN=%s\nCONTROL=http://%s\n",
		s.URL(), s.Token(vault.TokenOptions{Policies: []string{vault.Root}}), web.Addr())
	return control.Serve(ctx, web, s.Control(*mount))
}
