package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// TestRestart stores a key through the program, with a token that the control endpoint
// gave, restarts it and fetches the key.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(t.TempDir(), "token")
	k := key.Generate()
	var saved escrow.Copy
	for i, step := range []func(e escrow.Escrow, control string) error{
		func(e escrow.Escrow, control string) error {
			if err := e.Init(t.Context()); err != nil {
				return err
			}
			// By hand, with the runbook's command: bytes that are no UTF-8.
			ask(t, http.MethodPost, control+"/entry?path=h1/master", "\xff"+strings.Repeat("\xfe", 31))
			if _, _, err := e.Fetch(t.Context(), escrow.Copy{ID: "current/1"}); !errors.Is(err, key.ErrMangled) {
				return fmt.Errorf("value=@FILE: %v, want ErrMangled", err)
			}
			var err error
			saved, err = e.Save(t.Context(), escrow.Current, k)
			return err
		},
		func(e escrow.Escrow, control string) error {
			got, _, err := e.Fetch(t.Context(), saved)
			if err == nil && !got.Equal(k) {
				err = fmt.Errorf("another key came back: %v", got)
			}
			ask(t, http.MethodPost, control+"/seal?sealed=true", "")
			if _, lerr := e.List(t.Context()); !errors.Is(lerr, escrow.ErrStoreSealed) {
				err = errors.Join(err, fmt.Errorf("sealed: %w", lerr))
			}
			return err
		},
	} {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-control", "127.0.0.1:0", "-dir", dir}, w)
			w.Close()
		}()
		at := map[string]string{}
		lines := bufio.NewScanner(r)
		for len(at) < 3 && lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), "=")
			at[name] = value
		}
		if len(at) < 3 {
			t.Fatal("it did not start:", <-ended)
		}
		if i == 0 {
			text := ask(t, http.MethodGet, at["CONTROL"]+"/token?path=h1/master&ttl=720h", "")
			if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e, err := kinds.NewVault(kinds.VaultOptions{
			Name: "vault", Address: at["VAULT_ADDR"], Mount: "containarium", Path: "h1/master", TokenFile: token,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := step(e, at["CONTROL"]); err != nil {
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
	err := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-control", "0.0.0.0:0"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "not on loopback") {
		t.Fatalf("the control endpoint listens to the world: %v", err)
	}
}

func ask(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(url, resp.Status, err)
	}
	return string(text)
}
