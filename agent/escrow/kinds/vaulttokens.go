package kinds

// This file has the tokens that calls of Vault carry. A read itself is Fetch and FetchLatest in vault.go,
// by way of read in vaultengine.go and of call in vaultclient.go.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// vaultTokens gets tokens, keeps one while it is good, and renews it in time. A token
// from a file is looked up once, which also tells whether it is accepted at all. Failures
// are not kept. Where a file has changed, it is read again.
type vaultTokens struct {
	o    VaultOptions
	wire *vaultWire
	// asking holds one place: calls in parallel wait for one token and share it.
	asking chan struct{}
	kept   vaultToken // by whoever holds the place
}

type vaultToken struct {
	value string
	// files is what the files that it is from looked like before they were read.
	files     string
	renewable bool
	until     time.Time     // zero: for ever, or not known
	life      time.Duration // the longest that the server has given it
	// spent: the last renewal gave it hardly more time. It is at the end of its longest life.
	spent bool
}

// waning tells whether two thirds of a token's life are over. One that is used once a week
// lives on by renewals if its period is longer than that.
func (t vaultToken) waning() bool { return !t.until.IsZero() && time.Until(t.until) < t.life/3 }

// get returns a token, and whether it is one from earlier.
func (t *vaultTokens) get(ctx context.Context) (vaultToken, bool, error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return vaultToken{}, false, contextError(ctx.Err())
	}
	files := t.files()
	earlier := t.kept.value != "" && t.kept.files == files && (t.kept.until.IsZero() || time.Until(t.kept.until) > 0)
	if !earlier {
		t.kept = vaultToken{}
		got, err := t.ask(ctx)
		if err != nil {
			return vaultToken{}, false, err
		}
		got.files = files
		t.kept = got
	}
	if t.kept.waning() && t.kept.renewable && !t.kept.spent {
		// Where renewing fails the token is still good for now.
		if a, err := t.wire.send(ctx, t.kept.value, renewSelf, nil, map[string]any{}); err == nil && a.Auth != nil {
			if until, life := leased(a.Auth.LeaseDuration); life > 0 {
				t.kept.spent = until.Sub(t.kept.until) < time.Minute
				t.kept.until, t.kept.life = until, max(life, t.kept.life)
			}
		}
	}
	return t.kept, earlier, nil
}

// files is what tells one state of the files that tokens are from, from another.
func (t *vaultTokens) files() string {
	var all strings.Builder
	for _, path := range []string{t.o.TokenFile, t.o.RoleIDFile, t.o.SecretIDFile} {
		if path == "" {
			continue
		}
		if info, err := crew.Stat(path); err == nil {
			st := info.Sys().(*syscall.Stat_t)
			fmt.Fprintln(&all, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
		}
	}
	return all.String()
}

// forget drops a token that was refused with err where another is to be had, and tells whether
// one is: the login's next, or what the file holds by now. A token that is good and merely may not
// (escrow.ErrDenied) is dropped for another in the file alone.
func (t *vaultTokens) forget(bad vaultToken, err error) (another bool) {
	t.asking <- struct{}{}
	defer func() { <-t.asking }()
	if errors.Is(err, escrow.ErrDenied) {
		if t.o.TokenFile == "" {
			return false
		}
		if value, err := secretLine(t.o.TokenFile, escrow.ErrVaultToken); err != nil || value == bad.value {
			return false
		}
	}
	if t.kept.value == bad.value {
		t.kept = vaultToken{}
	}
	return true
}

// credential is what there is to tell of the token that was used last.
func (t *vaultTokens) credential(ctx context.Context) escrow.Credential {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return escrow.Credential{}
	}
	if t.o.TokenFile == "" { // the next login makes another
		return escrow.Credential{}
	}
	return escrow.Credential{What: "the token in " + t.o.TokenFile, Until: t.kept.until, Life: t.kept.life,
		Renewable: t.kept.renewable && !t.kept.spent}
}

func leased(seconds int) (time.Time, time.Duration) {
	life := time.Duration(seconds) * time.Second
	if life <= 0 {
		return time.Time{}, 0
	}
	return time.Now().Add(life), life
}

func (t *vaultTokens) ask(ctx context.Context) (vaultToken, error) {
	if t.o.TokenFile == "" {
		return t.login(ctx)
	}
	value, err := secretLine(t.o.TokenFile, escrow.ErrVaultToken)
	if err != nil {
		return vaultToken{}, err
	}
	got := vaultToken{value: value}
	a, err := t.wire.send(ctx, value, lookupSelf, nil, nil)
	switch {
	case errors.Is(err, escrow.ErrDenied): // none any more, or without the policy to look itself up: the call will tell
		return got, nil
	case errors.Is(err, errNoToken):
		return vaultToken{}, t.notAccepted()
	case err != nil:
		return vaultToken{}, err
	}
	ttl, _ := a.TokenTTL() // root's has none
	life, _ := a.Data["creation_ttl"].(json.Number)
	seconds, _ := life.Int64()
	if ttl > 0 {
		got.until, got.life = time.Now().Add(ttl), max(ttl, time.Duration(seconds)*time.Second)
		got.renewable, _ = a.TokenIsRenewable()
	}
	return got, nil
}

// notAccepted is the server's word on a token that is none, or none any more.
func (t *vaultTokens) notAccepted() error {
	if t.o.TokenFile == "" {
		return fmt.Errorf("%w: the token of this login is not accepted any more", escrow.ErrVaultLogin)
	}
	return fmt.Errorf("%w: the token in %s is not accepted", escrow.ErrVaultToken, t.o.TokenFile)
}

// login gets a token by AppRole
// (https://developer.hashicorp.com/vault/api-docs/auth/approle#login-with-approle).
func (t *vaultTokens) login(ctx context.Context) (vaultToken, error) {
	role, err := secretLine(t.o.RoleIDFile, escrow.ErrVaultLogin)
	if err != nil {
		return vaultToken{}, err
	}
	secret, err := secretLine(t.o.SecretIDFile, escrow.ErrVaultLogin)
	if err != nil {
		return vaultToken{}, err
	}
	a, err := t.wire.send(ctx, "", appRole, nil, map[string]any{"role_id": role, "secret_id": secret})
	switch {
	case isAny(err, escrow.ErrRefused, escrow.ErrDenied, escrow.ErrNoPlace):
		return vaultToken{}, fmt.Errorf("%w: with %s and %s: %v", escrow.ErrVaultLogin, t.o.RoleIDFile, t.o.SecretIDFile, err)
	case err != nil:
		return vaultToken{}, err
	case a.Auth == nil || a.Auth.ClientToken == "":
		return vaultToken{}, fmt.Errorf("%w: AppRole: an answer without a token", escrow.ErrCorrupt)
	}
	got := vaultToken{value: a.Auth.ClientToken, renewable: a.Auth.Renewable}
	got.until, got.life = leased(a.Auth.LeaseDuration)
	return got, nil
}

// secretLine reads a file that holds one secret; without one it is the error unfit.
func secretLine(path string, unfit error) (string, error) {
	b, err := readSmall(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", path, unfit, err)
	}
	defer clear(b)
	line := strings.TrimSpace(string(b))
	if line == "" || strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: %w: it is not one line of text", path, unfit)
	}
	return line, nil
}
