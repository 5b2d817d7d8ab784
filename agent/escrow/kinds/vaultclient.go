package kinds

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	vault "github.com/hashicorp/vault/api"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	vaultIdle = 10 * time.Second // how long an unused connection is kept
	// vaultMaxAnswer and vaultMaxList bound an answer, in bytes: a list may be of ten thousand
	// hosts, each with three names of 255 letters.
	vaultMaxAnswer = 1 << 20
	vaultMaxList   = 16 << 20

	lookupSelf = "auth/token/lookup-self"
	renewSelf  = "auth/token/renew-self"
	appRole    = "auth/approle/login"
)

// errCleartext keeps keys off the wire where the server, or one that it sends us to,
// has no TLS.
var errCleartext = errors.New("http is for loopback only: the key would travel in the clear")

// errNotFound is a 404: nothing is there, or what is there was deleted. Where that means
// nothing better, it is a place that is not there.
var errNotFound = fmt.Errorf("%w: not found", escrow.ErrNoPlace)

// What a server says of a token, where it says more than that something is denied: that
// it is none, or that it is one which may not. errInferred is what we make of less: it may
// not even look itself up.
var (
	errNoToken  = fmt.Errorf("%w: no such token", escrow.ErrUnauthenticated)
	errNoRight  = fmt.Errorf("%w by its policies", escrow.ErrDenied)
	errInferred = errors.New("it may not look itself up")
)

// vaultWire speaks to the server, through the vendor's client without what that client
// does by itself: no repetitions, no environment, no HTTP/2 (whose debugging writes
// headers and bodies to the log).
type vaultWire struct {
	o VaultOptions

	mu        sync.Mutex
	client    *vault.Client   // mu: nil until the first call
	transport *http.Transport // mu
}

// connect makes the client, once.
func (w *vaultWire) connect() (*vault.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client != nil {
		return w.client, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if w.o.CAFile != "" {
		pem, err := readSmall(w.o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: ca_file %s: %w", escrow.ErrUntrusted, w.o.CAFile, err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: ca_file %s holds no certificate", escrow.ErrUntrusted, w.o.CAFile)
		}
	}
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: secure,
		TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
		IdleConnTimeout: vaultIdle,
	}
	// The client reads VAULT_* whatever it is told, and fails on what it does not like there.
	// prestart has the daemon's environment, whose own Vault may be another one.
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "VAULT_") {
			os.Unsetenv(name)
		}
	}
	client, err := vault.NewClient(&vault.Config{
		Address: w.o.Address,
		HttpClient: &http.Client{
			Transport:     vaultTransport{transport, w.o.Address},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it follows one itself
		},
		CheckRetry: func(context.Context, *http.Response, error) (bool, error) { return false, nil },
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", escrow.ErrRefused, clip(err.Error()))
	}
	if w.o.Namespace != "" {
		client.SetNamespace(w.o.Namespace)
	}
	w.client, w.transport = client, transport
	return client, nil
}

func (w *vaultWire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.transport != nil {
		w.transport.CloseIdleConnections()
	}
}

// errElsewhere keeps the token, and keys, at the host and port that the configuration names:
// behind another port there is another program, on loopback anybody's. A standby of Vault's
// forwards what it is asked; only one that was told not to sends us on.
var errElsewhere = errors.New("token and key go to no other host or port than that of address; name the active server there")

// errLong is an answer beyond all bounds, and errLongList a list of names.
var (
	errLong     = fmt.Errorf("an answer of more than %d bytes", vaultMaxAnswer)
	errLongList = fmt.Errorf("its names are more than %d bytes, so that they cannot be listed whole: take away what others put there, or choose another path", vaultMaxList)
)

// boundedAnswer reads so much of an answer and no more.
type boundedAnswer struct {
	io.ReadCloser
	left int
	over error // what it is that has more
}

func (b *boundedAnswer) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.over
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// vaultTransport sends nothing to another host or port, nothing in the clear but on loopback,
// and reads no answer without end.
type vaultTransport struct {
	*http.Transport
	address string
}

func (t vaultTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ours, err := url.Parse(t.address)
	if err != nil || !strings.EqualFold(ours.Hostname(), r.URL.Hostname()) || portOf(ours) != portOf(r.URL) {
		return nil, fmt.Errorf("it sends us to %q: %w", clip(r.URL.Host), errElsewhere)
	}
	if r.URL.Scheme != "https" && !loopback(r.URL.Hostname()) {
		return nil, fmt.Errorf("it sends us to %s: %w", r.URL.Host, errCleartext)
	}
	resp, err := t.Transport.RoundTrip(r)
	if err == nil {
		bounded := &boundedAnswer{resp.Body, vaultMaxAnswer, errLong}
		if r.URL.Query().Has("list") {
			bounded.left, bounded.over = vaultMaxList, errLongList
		}
		resp.Body = bounded
	}
	return resp, err
}

// portOf is the port that a URL means.
func portOf(u *url.URL) string {
	if u.Port() == "" && u.Scheme == "https" {
		return "443"
	}
	return cmp.Or(u.Port(), "80")
}

// send makes one request: to read where there is no body. Beside errNotFound stands
// what the answer held.
func (w *vaultWire) send(ctx context.Context, token, path string, query url.Values, body map[string]any) (*vault.Secret, error) {
	client, err := w.connect()
	if err != nil {
		return nil, err
	}
	client = client.WithResponseCallbacks() // a copy, for a token of its own
	client.SetToken(token)
	var (
		resp *vault.Response
		a    *vault.Secret
	)
	if body == nil {
		resp, err = client.Logical().ReadRawWithDataWithContext(ctx, path, query)
		if resp != nil {
			defer resp.Body.Close()
		}
		if err == nil {
			a, err = vault.ParseSecret(resp.Body)
		}
	} else {
		// Not WriteRaw, which sends the body `null` to where a standby sends us.
		client = client.WithResponseCallbacks(func(r *vault.Response) { resp = r })
		a, err = client.Logical().WriteWithContext(ctx, path, body)
	}
	var (
		said   *vault.ResponseError
		syntax *json.SyntaxError
		types  *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &said):
		if said.StatusCode == http.StatusNotFound {
			return notFound(said, resp)
		}
		return nil, vaultSentinel(said, resp.Header)
	case errors.As(err, &syntax), errors.As(err, &types), err == io.EOF: // unwrapped: there is an answer, of white space
		return nil, fmt.Errorf("%w: it is not JSON as Vault's", escrow.ErrNotStore)
	case errors.Is(err, errLong):
		return nil, fmt.Errorf("%w: %w", escrow.ErrNotStore, errLong)
	case errors.Is(err, errLongList):
		return nil, fmt.Errorf("%w: %w", escrow.ErrFull, errLongList)
	case err != nil:
		return nil, wireError(ctx, err)
	case resp.StatusCode >= 300:
		return nil, fmt.Errorf("%w: it sends us from one server to the next", escrow.ErrUnreachable)
	case resp.StatusCode == http.StatusNoContent && body != nil:
		return &vault.Secret{}, nil
	case a == nil, a.RequestID == "" && a.Data == nil && a.Auth == nil && len(a.Warnings) == 0:
		return nil, fmt.Errorf("%w: it says nothing", escrow.ErrNotStore)
	}
	return a, nil
}

// notFound tells a missing mount from a missing entry. What was deleted in KV version 2
// is a 404 that holds its metadata.
func notFound(said *vault.ResponseError, resp *vault.Response) (*vault.Secret, error) {
	text := clip(strings.Join(said.Errors, "; "))
	if strings.Contains(text, "no handler for route") || strings.Contains(text, "unsupported path") {
		return nil, fmt.Errorf("%w (%s)", escrow.ErrNoEngine, text)
	}
	if said.RawError {
		return nil, fmt.Errorf("%w: a 404 that is not Vault's", escrow.ErrNotStore)
	}
	a, err := vault.ParseSecret(resp.Body)
	if err != nil || a == nil {
		a = &vault.Secret{}
	}
	return a, errNotFound
}

// vaultSentinel maps the statuses of the API
// (https://developer.hashicorp.com/vault/api-docs#http-status-codes) to the contract's errors.
func vaultSentinel(said *vault.ResponseError, header http.Header) error {
	text := clip(strings.Join(said.Errors, "; "))
	if strings.Contains(text, "HTTP request to an HTTPS server") || strings.Contains(text, "plain HTTP request was sent to HTTPS port") {
		return fmt.Errorf("%w: what answers there speaks TLS, and address begins with http", escrow.ErrRefused)
	}
	if strings.Contains(text, "not initialized") || strings.Contains(text, "not yet initialized") {
		return fmt.Errorf("%w: %s", escrow.ErrStoreSealed, text)
	}
	if text == "" || said.RawError {
		text = fmt.Sprintf("status %d", said.StatusCode)
	}
	if said.RawError && said.StatusCode < 500 && said.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("%w: a %s that is not Vault's", escrow.ErrNotStore, text) // a proxy's
	}
	wrap := func(err error) error { return fmt.Errorf("%w: %s", err, text) }
	switch said.StatusCode {
	case http.StatusForbidden:
		switch {
		case strings.Contains(text, "invalid token"), strings.Contains(text, "bad token"), strings.Contains(text, "missing client token"):
			return wrap(errNoToken)
		case strings.Contains(text, "1 error occurred"):
			return errNoRight
		}
		return wrap(escrow.ErrDenied)
	case http.StatusUnauthorized:
		return wrap(errNoToken)
	case http.StatusBadRequest:
		switch {
		case strings.Contains(text, "did not match the current version"):
			return wrap(errChanged)
		case strings.Contains(text, "missing client token"):
			return wrap(errNoToken)
		case strings.Contains(text, "Upgrading from non-versioned"), strings.Contains(text, "DR secondary"):
			return wrap(escrow.ErrNotServing)
		}
		return wrap(escrow.ErrRefused)
	case http.StatusTooManyRequests:
		if after, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16); err == nil {
			text += fmt.Sprintf(", for %d s", after)
		}
		return wrap(escrow.ErrRateLimited)
	case http.StatusServiceUnavailable:
		if strings.Contains(text, "sealed") {
			return wrap(escrow.ErrStoreSealed)
		}
	case http.StatusPreconditionFailed: // a performance standby that is behind
		return wrap(escrow.ErrUnreachable)
	}
	if said.StatusCode >= 500 && !said.RawError {
		return wrap(escrow.ErrNotServing) // a standby without an active server is a 500
	}
	if said.StatusCode >= 500 {
		return wrap(escrow.ErrUnreachable)
	}
	return wrap(escrow.ErrRefused)
}

// wireError maps what went wrong before an answer was there.
func wireError(ctx context.Context, err error) error {
	var (
		untrusted *tls.CertificateVerificationError
		expired   x509.CertificateInvalidError
		timeout   interface{ Timeout() bool }
	)
	text := wireText(err)
	switch {
	case ctx.Err() != nil:
		return contextError(ctx.Err())
	case isAny(err, errCleartext, errElsewhere):
		return fmt.Errorf("%w: %s", escrow.ErrRefused, clip(err.Error()))
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: what answers there speaks no TLS, and address begins with https", escrow.ErrRefused)
	case errors.As(err, &expired) && expired.Reason == x509.Expired && expired.Cert != nil && time.Now().Before(expired.Cert.NotBefore):
		// A certificate from tomorrow: it is rather our clock.
		return fmt.Errorf("%w: its certificate is valid from %s", escrow.ErrClock, printable.Time(expired.Cert.NotBefore))
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w: %s", escrow.ErrUntrusted, clip(untrusted.Err.Error()))
	case neverLeft(err):
		return fmt.Errorf("%w: %s", escrow.ErrNeverLeft, text)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: %s", escrow.ErrTimeout, text)
	}
	return fmt.Errorf("%w: %s", escrow.ErrUnreachable, text)
}

// call makes one call with its own deadline and token. Nothing is repeated, but once
// with a fresh token where one from earlier was refused. Beside errNotFound stands what
// the answer held.
func (v *Vault) call(ctx context.Context, path string, query url.Values, body map[string]any) (*vault.Secret, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, v.o.Timeout)
	defer cancel()
	var a *vault.Secret
	token, kept, err := v.tokens.get(ctx)
	if err == nil {
		a, err = v.ask(ctx, token, path, query, body)
		if isAny(err, escrow.ErrUnauthenticated, escrow.ErrDenied) && v.tokens.forget(token, err) && kept {
			fresh, _, ferr := v.tokens.get(ctx)
			switch {
			case ferr != nil:
				err = ferr
			case fresh.value != token.value: // else the file still holds what was refused
				a, err = v.ask(ctx, fresh, path, query, body)
			}
		}
	}
	if err != nil && caller.Err() == context.Canceled {
		return nil, caller.Err()
	}
	if versioned(a) { // somebody has made version 2 of it since
		v.mu.Lock()
		v.kv = 0
		v.mu.Unlock()
	}
	return a, err
}

// ask tells a token that is not accepted from one that may not: both are a 403, and
// OpenBao and older Vaults say nothing else. What may not even look itself up is not
// accepted, unless the answer says that it was.
func (v *Vault) ask(ctx context.Context, token vaultToken, path string, query url.Values, body map[string]any) (*vault.Secret, error) {
	a, err := v.wire.send(ctx, token.value, path, query, body)
	switch {
	case errors.Is(err, errNoToken):
		return nil, v.tokens.notAccepted()
	case errors.Is(err, escrow.ErrDenied) && !errors.Is(err, errNoRight):
		switch _, self := v.wire.send(ctx, token.value, lookupSelf, nil, nil); {
		case errors.Is(self, errNoToken):
			return nil, v.tokens.notAccepted()
		case errors.Is(self, escrow.ErrDenied) && !errors.Is(self, errNoRight):
			return nil, fmt.Errorf("%w: %w", v.tokens.notAccepted(), errInferred)
		}
	}
	return a, err
}
