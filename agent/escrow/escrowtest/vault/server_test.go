package vault_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
)

func start(t *testing.T) (*vault.Server, *api.Client) {
	t.Helper()
	s, err := vault.Start(vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Mount("one", 1)
	s.Mount("two", 2)
	return s, client(t, s, s.Token(vault.TokenOptions{Policies: []string{vault.Root}}))
}

// client is the vendor's own, as it comes.
func client(t *testing.T, s *vault.Server, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient(&api.Config{Address: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(token)
	return c
}

// status is the HTTP status of an error, 0 for none.
func status(err error) int {
	if said, ok := errors.AsType[*api.ResponseError](err); ok {
		return said.StatusCode
	}
	return 0
}

// TestVersion2: what the vendor's helper for KV version 2 does with the fake.
func TestVersion2(t *testing.T) {
	s, c := start(t)
	ctx, kv := t.Context(), c.KVv2("two")
	if _, err := kv.Get(ctx, "a"); !errors.Is(err, api.ErrSecretNotFound) {
		t.Errorf("an empty engine: %v", err)
	}
	for n := 1; n <= 12; n++ {
		got, err := kv.Put(ctx, "a", map[string]any{"value": fmt.Sprint(n)}, api.WithCheckAndSet(n-1))
		if err != nil || got.VersionMetadata.Version != n {
			t.Fatal(n, got, err)
		}
	}
	if _, err := kv.Put(ctx, "a", map[string]any{"value": "x"}, api.WithCheckAndSet(0)); status(err) != 400 {
		t.Errorf("cas 0 of what is there: %v", err)
	}
	if versions, err := kv.GetVersionsAsList(ctx, "a"); err != nil || len(versions) != 10 || versions[0].Version != 3 {
		t.Errorf("%d versions, %v, want 3 to 12", len(versions), err)
	}
	if _, err := kv.GetVersion(ctx, "a", 2); !errors.Is(err, api.ErrSecretNotFound) {
		t.Errorf("a version that was pushed out: %v", err)
	}
	if err := kv.DeleteVersions(ctx, "a", []int{12}); err != nil {
		t.Fatal(err)
	}
	// Deleted is a 404 that says so, which the vendor's helper reads as a secret without data.
	if got, err := kv.Get(ctx, "a"); err != nil || got.Data != nil || got.VersionMetadata.DeletionTime.IsZero() {
		t.Errorf("deleted: %+v, %v", got, err)
	}
	if _, err := kv.Put(ctx, "a", map[string]any{"value": "x"}, api.WithCheckAndSet(0)); status(err) != 400 {
		t.Errorf("cas 0 of what was deleted: %v", err)
	}
	if err := kv.Undelete(ctx, "a", []int{12}); err != nil {
		t.Fatal(err)
	}
	if got, err := kv.Get(ctx, "a"); err != nil || got.Data["value"] != "12" {
		t.Errorf("undeleted: %+v, %v", got, err)
	}
	if err := kv.Destroy(ctx, "a", []int{12}); err != nil {
		t.Fatal(err)
	}
	if got, err := kv.GetVersion(ctx, "a", 12); err != nil || got.Data != nil || !got.VersionMetadata.Destroyed {
		t.Errorf("destroyed: %+v, %v", got, err)
	}
	if err := kv.DeleteMetadata(ctx, "a"); err != nil || len(s.Names("two")) != 0 {
		t.Errorf("%v, %q", err, s.Names("two"))
	}
	s.RequireCAS("two")
	if _, err := kv.Put(ctx, "a", map[string]any{"value": "x"}); status(err) != 400 {
		t.Errorf("without cas, where it is required: %v", err)
	}
	// The pitfall: read as version 1 it is no error, and no data.
	if got, err := c.Logical().ReadWithContext(ctx, "two/a"); err != nil || got == nil || got.Data != nil || len(got.Warnings) != 1 {
		t.Errorf("version 2 read as version 1: %+v, %v", got, err)
	}
}

func TestVersion1(t *testing.T) {
	s, c := start(t)
	ctx, kv := t.Context(), c.KVv1("one")
	if list, err := c.Logical().ListWithContext(ctx, "one/dir"); list != nil || err != nil {
		t.Errorf("an empty list: %v, %v, want nothing at all", list, err)
	}
	for _, value := range []string{"a", "b"} {
		if err := kv.Put(ctx, "dir/x", map[string]any{"value": value}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := kv.Get(ctx, "dir/x"); err != nil || got.Data["value"] != "b" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := kv.Put(ctx, "dir/sub/y", map[string]any{"value": "c"}); err != nil {
		t.Fatal(err)
	}
	if list, err := c.Logical().ListWithContext(ctx, "one/dir"); err != nil || fmt.Sprint(list.Data["keys"]) != "[sub/ x]" {
		t.Errorf("%v, %v", list, err)
	}
	if err := kv.Delete(ctx, "dir/x"); err != nil || slices.Contains(s.Names("one"), "dir/x") {
		t.Errorf("%v, %q", err, s.Names("one"))
	}
}

// TestPut: `value=@FILE` destroys what is no UTF-8, and JSON keeps the rest.
func TestPut(t *testing.T) {
	s, c := start(t)
	for in, want := range map[string]string{"text\n": "text\n", "\x00a": "\x00a", "a\xffb": "a\uFFFDb", "\xc3\x28": "\uFFFD("} {
		if err := s.Put("two", "a", map[string]any{"value": in}); err != nil {
			t.Fatal(err)
		}
		if got, err := c.KVv2("two").Get(t.Context(), "a"); err != nil || got.Data["value"] != want {
			t.Errorf("%q came back as %q, %v", in, got.Data["value"], err)
		}
	}
}

// TestRights: tokens end, are renewed, and may what their policies say.
func TestRights(t *testing.T) {
	s, _ := start(t)
	s.Policy("p", vault.Policy{"two/data/a": {"create", "read"}, "two/data/*": {"read"}, "two/metadata/a/": {"list"}})
	token := s.Token(vault.TokenOptions{Policies: []string{"p"}, TTL: time.Hour, Renewable: true})
	c := client(t, s, token)
	ctx := t.Context()
	if _, err := c.KVv2("two").Put(ctx, "a", map[string]any{"value": "1"}); err != nil {
		t.Errorf("create: %v", err)
	}
	for name, call := range map[string]func() error{
		"update": func() error { _, err := c.KVv2("two").Put(ctx, "a", map[string]any{"value": "2"}); return err },
		"create elsewhere": func() error {
			_, err := c.KVv2("two").Put(ctx, "b", map[string]any{"value": "2"})
			return err
		},
		"list above":     func() error { _, err := c.Logical().ListWithContext(ctx, "two/metadata"); return err },
		"another engine": func() error { _, err := c.Logical().ReadWithContext(ctx, "one/a"); return err },
	} {
		if err := call(); status(err) != 403 {
			t.Errorf("%s: %v, want 403", name, err)
		}
	}
	if got, err := c.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/two/a"); err != nil || fmt.Sprint(got.Data["options"]) != "map[version:2]" {
		t.Errorf("which version: %+v, %v", got, err)
	}
	if _, err := c.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/one/a"); status(err) != 403 {
		t.Errorf("which version of an engine without a right to it: %v", err)
	}
	s.Age(50 * time.Minute)
	if got, err := c.Auth().Token().RenewSelfWithContext(ctx, 0); err != nil || got.Auth.LeaseDuration != 3600 || s.Renewed() != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	s.Age(50 * time.Minute)
	if got, err := c.Auth().Token().LookupSelfWithContext(ctx); err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	s.Age(50 * time.Minute)
	if _, err := c.Auth().Token().LookupSelfWithContext(ctx); status(err) != 403 || !strings.Contains(err.Error(), "invalid token") {
		t.Errorf("a token that has ended: %v", err)
	}
	role, secret := s.AppRole(1, vault.TokenOptions{Policies: []string{"p"}, TTL: time.Hour})
	for i, want := range []int{0, 400} {
		_, err := c.Logical().WriteWithContext(ctx, "auth/approle/login", map[string]any{"role_id": role, "secret_id": secret})
		if status(err) != want {
			t.Errorf("login %d: %v, want %d", i+1, err, want)
		}
	}
}

// TestStrict: what a careful client does not send.
func TestStrict(t *testing.T) {
	s, c := start(t)
	for name, tt := range map[string]struct {
		method, path, body, header string
		want                       int
	}{
		"no header against forgery": {"GET", "two/data/a", "", "", 412},
		"a wrapped answer":          {"GET", "two/data/a", "", "X-Vault-Wrap-TTL", 400},
		"no data":                   {"PUT", "two/data/a", `{"value":"x"}`, "X-Vault-Request", 400},
		"unknown fields":            {"PUT", "two/data/a", `{"data":{},"value":"x"}`, "X-Vault-Request", 400},
		"null":                      {"PUT", "two/data/a", `null`, "X-Vault-Request", 400},
		"no JSON":                   {"PUT", "two/data/a", `value=x`, "X-Vault-Request", 400},
		"nothing":                   {"PUT", "one/a", `{}`, "X-Vault-Request", 400},
		"a path without /v1":        {"GET", "../two/data/a", "", "X-Vault-Request", 404},
		"no engine":                 {"GET", "three/a", "", "X-Vault-Request", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.URL()+"/v1/"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", c.Token())
		if tt.header != "" {
			req.Header.Set("X-Vault-Request", "true")
			req.Header.Set(tt.header, "true")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, tt.want)
		}
	}
}

// TestSnapshot: what was done since is undone, and a snapshot is good for more than once. A
// request that has begun by then changes nothing afterwards.
func TestSnapshot(t *testing.T) {
	s, c := start(t)
	if err := s.Put("two", "a", map[string]any{"value": "old"}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Unmount("one")
		s.Reset()
		s.Break(vault.Fault{Kind: vault.Slow, Delay: 50 * time.Millisecond, Times: 1})
		put := make(chan error)
		go func() {
			_, err := c.KVv2("two").Put(t.Context(), "a", map[string]any{"value": "new"})
			put <- err
		}()
		for len(s.Calls()) == 0 {
			runtime.Gosched()
		}
		if err := errors.Join(s.Restore(snapshot), <-put); err != nil {
			t.Fatal(err)
		}
		got, err := c.KVv2("two").Get(t.Context(), "a")
		if err != nil || got.Data["value"] != "old" || got.VersionMetadata.Version != 1 || !s.Mounted("one") {
			t.Errorf("%v, %v", got, err)
		}
	}
}
