package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// TestRestart stores a key through the program, restarts it and fetches the key, with
// credentials that the first one made.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	k := key.Generate()
	var saved escrow.Copy
	credentials := filepath.Join(t.TempDir(), "credentials.json")
	tokenListen := "127.0.0.1:0" // the credentials name it, so the second run takes it again

	for i, step := range []func(escrow.Escrow) error{
		func(e escrow.Escrow) (err error) {
			if err := e.Init(t.Context()); err != nil {
				return err
			}
			saved, err = e.Save(t.Context(), escrow.Current, k)
			return err
		},
		func(e escrow.Escrow) error {
			got, _, err := e.Fetch(t.Context(), saved)
			if err == nil && !got.Equal(k) {
				err = fmt.Errorf("another key came back: %v", got)
			}
			return err
		},
	} {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-token-listen", tokenListen, "-rest-listen", "127.0.0.1:0", "-control", "127.0.0.1:0", "-dir", dir}, w)
			w.Close()
		}()
		at := map[string]string{}
		lines := bufio.NewScanner(r)
		for len(at) < 4 && lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), "=")
			at[name] = value
		}
		if len(at) < 4 {
			t.Fatal("it did not start:", <-ended)
		}
		u, err := url.Parse(at["TOKEN_URL"])
		if err != nil {
			t.Fatal(err)
		}
		tokenListen = u.Host
		if i == 0 {
			post(t, at["CONTROL"]+"/grant?identity=host@demo&role=admin")
			resp, err := http.Get(at["CONTROL"] + "/credentials?identity=host@demo&type=service_account")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(credentials, body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e, err := kinds.NewGCP(kinds.GCPOptions{
			Name: "gcp", Project: "my-project", Secret: "s", Endpoint: at["ENDPOINT"], Plaintext: true, CredentialsFile: credentials,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := step(e); err != nil {
			t.Error(err)
		}
		e.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestControlOnLoopbackOnly(t *testing.T) {
	err := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-token-listen", "127.0.0.1:0", "-rest-listen", "127.0.0.1:0", "-control", "0.0.0.0:0"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "not on loopback") {
		t.Fatalf("the control endpoint listens to the world: %v", err)
	}
}

func post(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(url, resp.Status)
	}
}
