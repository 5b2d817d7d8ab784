package kinds

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

const (
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
	// tokenSpare is how long a token must still be good to be used again.
	tokenSpare = time.Minute
	// metadataTimeout is for the metadata server, which is one hop away or not there:
	// off Google's cloud packets to its address go nowhere, and nothing refuses them.
	metadataTimeout = time.Second
	metadataHost    = "169.254.169.254"
)

// credentialKinds are what a credentials file may be. The kind is read from the file and
// then insisted on, so that no other is slipped in.
var credentialKinds = map[string]google.CredentialsType{
	"service_account":              google.ServiceAccount,
	"authorized_user":              google.AuthorizedUser,
	"external_account":             google.ExternalAccount,
	"impersonated_service_account": google.ImpersonatedServiceAccount,
}

// tokens gets access tokens, and keeps one while it is good. Failures are not kept:
// a probe at a cold boot says nothing about a minute later.
type tokens struct {
	file string // "" = Application Default Credentials
	none bool   // an emulator without credentials
	// asking holds one place: calls in parallel wait for one token and share it.
	asking chan struct{}

	mu   sync.Mutex
	kept token // mu
}

type token struct {
	value   string
	project string // to be charged, for an authorized user's calls
	until   time.Time
}

// get returns a token, and whether it is one from earlier.
func (t *tokens) get(ctx context.Context) (token, bool, error) {
	if t.none {
		return token{}, false, nil
	}
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return token{}, false, contextError(ctx.Err())
	}
	t.mu.Lock()
	kept := t.kept
	t.mu.Unlock()
	if time.Until(kept.until) > tokenSpare {
		return kept, true, nil
	}
	got, err := t.ask(ctx)
	if err != nil {
		return token{}, false, err
	}
	t.mu.Lock()
	t.kept = got
	t.mu.Unlock()
	return got, false, nil
}

// forget drops a token that was refused.
func (t *tokens) forget(bad token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept.value == bad.value {
		t.kept = token{}
	}
}

// ask looks where Application Default Credentials are looked for
// (https://cloud.google.com/docs/authentication/application-default-credentials), without
// the library's probe for Google's cloud, which can hang and whose failure the library
// keeps for the life of the process.
func (t *tokens) ask(ctx context.Context) (token, error) {
	file := t.file
	if file == "" {
		file = os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	}
	if file != "" {
		return fileToken(ctx, file)
	}
	if home, err := os.UserHomeDir(); err == nil {
		got, err := fileToken(ctx, filepath.Join(home, ".config/gcloud/application_default_credentials.json"))
		if !errors.Is(err, fs.ErrNotExist) {
			return got, err
		}
	}
	return metadataToken(ctx)
}

func fileToken(ctx context.Context, file string) (token, error) {
	fail := func(err error) (token, error) {
		return token{}, fmt.Errorf("credentials file %s: %w", file, err)
	}
	data, err := readSmall(file)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", escrow.ErrUnauthenticated, err))
	}
	defer clear(data)
	var head struct {
		Type    string `json:"type"`
		Project string `json:"quota_project_id"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fail(fmt.Errorf("%w: not JSON", escrow.ErrUnauthenticated))
	}
	kind, ok := credentialKinds[head.Type]
	if !ok {
		return fail(fmt.Errorf("%w: kind %q is not known", escrow.ErrUnauthenticated, clip(head.Type)))
	}
	b := &bound{ctx: ctx, to: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: b})
	creds, err := google.CredentialsFromJSONWithType(ctx, data, kind, cloudPlatform)
	if err != nil {
		return fail(fmt.Errorf("%w: it does not parse", escrow.ErrUnauthenticated))
	}
	got, err := creds.TokenSource.Token()
	if err != nil {
		return fail(tokenError(ctx, cmp.Or(b.err, err)))
	}
	if head.Project == "" {
		head.Project = os.Getenv("GOOGLE_CLOUD_QUOTA_PROJECT")
	}
	if kind == google.ServiceAccount {
		head.Project = "" // it is charged to its own
	}
	return token{got.AccessToken, head.Project, got.Expiry}, nil
}

// bound sends every request under one context, and keeps what went wrong: the library
// asks for a service account's token without a deadline, and returns the text of an
// error only.
type bound struct {
	ctx context.Context
	to  http.RoundTripper
	err error
}

func (b *bound) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.to.RoundTrip(r.WithContext(b.ctx))
	b.err = err
	return resp, err
}

// metadataToken asks the machine's metadata server for the token of its service account
// (https://cloud.google.com/compute/docs/access/authenticate-workloads).
func metadataToken(ctx context.Context) (token, error) {
	body, err := readMetadata(ctx, "instance/service-accounts/default/token?scopes="+cloudPlatform)
	var got struct {
		Token   string `json:"access_token"`
		Seconds int64  `json:"expires_in"`
	}
	if err == nil && (json.Unmarshal(body, &got) != nil || got.Token == "") {
		err = fmt.Errorf("%w: no token in its answer", escrow.ErrUnauthenticated)
	}
	if err != nil {
		return token{}, fmt.Errorf("no credentials file, and the metadata server: %w", err)
	}
	return token{value: got.Token, until: time.Now().Add(time.Duration(got.Seconds) * time.Second)}, nil
}

// MetadataProject asks the machine's metadata server for the id of the project that the
// machine is in. Off Google's cloud nobody answers: an error, after a second at most.
func MetadataProject(ctx context.Context) (string, error) {
	body, err := readMetadata(ctx, "project/project-id")
	if err != nil {
		return "", fmt.Errorf("the metadata server: %w", err)
	}
	return strings.TrimSpace(string(body)), nil
}

// readMetadata reads one value from the metadata server
// (https://cloud.google.com/compute/docs/metadata/querying-metadata).
func readMetadata(ctx context.Context, value string) ([]byte, error) {
	host := os.Getenv("GCE_METADATA_HOST")
	if host == "" {
		host = metadataHost
	}
	own, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(own, http.MethodGet, "http://"+host+"/computeMetadata/v1/"+value, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(err.Error()))
	}
	req.Header.Set("Metadata-Flavor", "Google")
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, tokenError(ctx, err)
	case err != nil:
		// Nobody there: this is not Google's cloud, and there are no credentials.
		return nil, fmt.Errorf("%w: it does not answer", escrow.ErrUnauthenticated)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: status %d", escrow.ErrUnauthenticated, resp.StatusCode)
	case resp.Header.Get("Metadata-Flavor") != "Google":
		return nil, fmt.Errorf("%w: what answers at its address is none", escrow.ErrUnauthenticated)
	case err != nil:
		return nil, fmt.Errorf("%w: its answer broke off", escrow.ErrUnauthenticated)
	}
	return body, nil
}

// refusal is what a token endpoint said, RFC 6749 section 5.2. The library reads it only
// for some kinds of credentials; for a service account it is still in the body.
func refusal(e *oauth2.RetrieveError) (code, text string) {
	said := struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}{e.ErrorCode, e.ErrorDescription}
	if said.Code == "" {
		// A body that is not what the RFC says tells nothing.
		_ = json.Unmarshal(e.Body, &said)
	}
	if said.Code == "" {
		return "", "the token endpoint refuses, and does not say why"
	}
	return said.Code, strings.TrimSpace(said.Code + " " + said.Description)
}

// tokenError maps a failure to get a token. Nothing of the request is in the result:
// it holds the signed assertion.
func tokenError(ctx context.Context, err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		said, text := refusal(refused)
		code := 0
		if refused.Response != nil {
			code = refused.Response.StatusCode
			if code < 500 && clockWrong(refused.Response.Header.Get("Date")) {
				return fmt.Errorf("%w: %s", escrow.ErrClock, clip(text))
			}
		}
		switch {
		case code == http.StatusTooManyRequests:
			return fmt.Errorf("%w: the token endpoint: %s", escrow.ErrRateLimited, clip(text))
		case code >= 500:
			return fmt.Errorf("%w: the token endpoint has status %d", escrow.ErrUnreachable, code)
		case said == "invalid_grant" && strings.Contains(text, "iat") && strings.Contains(text, "exp"):
			// "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable
			// timeframe. Check your iat and exp values in the JWT claim."
			return fmt.Errorf("%w: %s", escrow.ErrClock, clip(text))
		}
		return fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(text))
	}
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: the token endpoint", escrow.ErrTimeout)
	case neverLeft(err):
		return fmt.Errorf("%w: the token endpoint", escrow.ErrNeverLeft)
	case errors.As(err, &timeout):
		return fmt.Errorf("%w: the token endpoint: %s", escrow.ErrUnreachable, wireText(err))
	}
	return fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(err.Error()))
}
