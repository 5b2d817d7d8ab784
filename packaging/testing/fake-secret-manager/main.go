// Command fake-secret-manager runs the fake Google Secret Manager of
// agent/escrow/escrowtest/secretmanager as a program, for the demo and for tests that
// need it in a process of its own.
//
// It prints where it listens, one NAME=address a line, and then serves until SIGTERM:
//
//	ENDPOINT=127.0.0.1:8085
//	TOKEN_URL=http://127.0.0.1:8086/token
//	REST_URL=http://127.0.0.1:8088/
//	CONTROL=http://127.0.0.1:8087
//
// The control address takes the requests described at secretmanager.Control. Without
// --anonymous nobody may do anything until an identity has been granted a role:
//
//	curl -X POST "$CONTROL/grant?identity=host@demo&role=admin"
//	curl "$CONTROL/credentials?identity=host@demo&type=service_account" > credentials.json
//
// gcloud speaks to it with
//
//	curl "$CONTROL/token?identity=host@demo" > token
//	export CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER=$REST_URL
//	export CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=token CLOUDSDK_CORE_PROJECT=demo-project
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/packaging/testing/control"
)

func main() { control.Main("fake-secret-manager", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	var o secretmanager.Options
	flags := flag.NewFlagSet("fake-secret-manager", flag.ContinueOnError)
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8085", "address of the gRPC service")
	flags.StringVar(&o.TokenListen, "token-listen", "127.0.0.1:8086", "address of the token endpoint, http")
	flags.StringVar(&o.RESTListen, "rest-listen", "127.0.0.1:8088", "address of the API in JSON, http, as gcloud speaks it")
	controlListen := flags.String("control", "127.0.0.1:8087", "address of the control endpoint, http, on loopback")
	flags.StringVar(&o.Location, "location", "", "serve this region's secrets instead of global ones")
	flags.StringVar(&o.Dir, "dir", "", "keep the state in this directory")
	flags.BoolVar(&o.Anonymous, "anonymous", false, "let calls without a token do everything")
	flags.BoolVar(&o.Unlimited, "unlimited", false, "no rate limits")
	cert := flags.String("tls-cert", "", "serve gRPC by TLS with this certificate, PEM")
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
	s, err := secretmanager.Start(o)
	if err != nil {
		return errors.Join(err, web.Close())
	}
	defer s.Close()
	fmt.Fprintf(out, "ENDPOINT=%s\nTOKEN_URL=%s\nREST_URL=%s\nCONTROL=http://%s\n", s.Addr(), s.TokenURL(), s.RESTURL(), web.Addr())
	return control.Serve(ctx, web, s.Control())
}
