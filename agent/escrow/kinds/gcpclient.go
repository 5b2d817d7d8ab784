package kinds

// This file carries the calls to Secret Manager, and makes the contract's errors of what comes
// back; gcp.go makes shelves of secrets and their versions.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// Codes that only some callers can give a meaning to. What leaves the package wraps a
// sentinel of the contract besides.
var (
	errPrecondition = errors.New("failed precondition")
	errExists       = errors.New("already exists")
)

// gcpLink is a connection and the calls that are on it.
type gcpLink struct {
	conn  *grpc.ClientConn
	users int  // GCP.mu
	stale bool // GCP.mu: to be closed by its last user

	mu  sync.Mutex
	err error // mu: of the last dialling
}

func (l *gcpLink) dialled() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// options returns the target and the options of grpc.NewClient: no retries, no service
// configuration from DNS, no health checks.
func (l *gcpLink) options(target string, o GCPOptions) (string, []grpc.DialOption) {
	creds := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	if o.Plaintext {
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithUserAgent("keyguard"),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(gcpIdle),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: gcpTimeout}),
	}
	if proxied(target) {
		return "dns:///" + target, opts // gRPC's own dialler speaks to HTTPS_PROXY
	}
	var d net.Dialer
	return "passthrough:///" + target, append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, "tcp", addr)
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		return c, err
	}))
}

func proxied(target string) bool {
	p, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: target}})
	return err == nil && p != nil
}

// acquire returns the connection, and makes it where there is none.
func (g *GCP) acquire() (*gcpLink, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link == nil {
		l := &gcpLink{}
		target, opts := l.options(g.target, g.o)
		conn, err := grpc.NewClient(target, opts...)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", escrow.ErrUnreachable, clip(err.Error()))
		}
		l.conn = conn
		g.link = l
	}
	g.link.users++
	return g.link, nil
}

// release gives the connection back after a call that ended with err. Where that says that the
// connection failed the next call makes a new one: gRPC would answer from the old one with the
// old error for up to its back-off, and how often to ask is our caller's to say. The
// connection's state is no witness: it may change after the answer.
func (g *GCP) release(l *gcpLink, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if status.Code(err) == codes.Unavailable && g.link == l {
		g.dropLocked()
	}
	if l.users--; l.users == 0 && l.stale {
		l.conn.Close()
	}
}

func (g *GCP) dropLocked() {
	if l := g.link; l != nil {
		l.stale, g.link = true, nil
		if l.users == 0 {
			l.conn.Close()
		}
	}
}

// Close ends the connection once the calls on it have ended.
func (g *GCP) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropLocked()
	return nil
}

// call makes one remote call with its own deadline and the caller's token, and turns
// the outcome into the contract's errors. Nothing is repeated, but once with a fresh
// token where one from earlier was refused.
func (g *GCP) call(ctx context.Context, field, route string, f func(context.Context, pb.SecretManagerServiceClient, ...grpc.CallOption) error) error {
	if g.unexpanded() {
		return fmt.Errorf("%w: not initialised, %s still has to be expanded", escrow.ErrNoPlace, g.o.Secret)
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	token, kept, err := g.tokens.get(ctx)
	if err == nil {
		err = g.callWith(ctx, token, field, route, f)
		if errors.Is(err, escrow.ErrUnauthenticated) {
			g.tokens.forget(token)
			if kept {
				// A token from earlier may have been revoked since. Only a fresh one is the
				// credentials' word.
				if token, _, err = g.tokens.get(ctx); err == nil {
					err = g.callWith(ctx, token, field, route, f)
				}
			}
		}
	}
	if err != nil && caller.Err() == context.Canceled {
		return caller.Err()
	}
	return err
}

func (g *GCP) callWith(ctx context.Context, token token, field, route string, f func(context.Context, pb.SecretManagerServiceClient, ...grpc.CallOption) error) error {
	// The header by which Google routes a call (https://google.aip.dev/client-libraries/4222).
	md := []string{"x-goog-request-params", field + "=" + url.QueryEscape(route)}
	if token.value != "" {
		md = append(md, "authorization", "Bearer "+token.value)
	}
	if token.project != "" {
		md = append(md, "x-goog-user-project", token.project)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, md...)

	l, err := g.acquire()
	if err != nil {
		return err
	}
	var header metadata.MD
	err = f(ctx, pb.NewSecretManagerServiceClient(l.conn), grpc.Header(&header))
	g.release(l, err)
	if err == nil {
		return nil
	}
	return g.gcpSentinel(status.Convert(err), header, l)
}

// gcpSentinel maps every code of google.rpc.Code
// (https://cloud.google.com/apis/design/errors) to the contract's errors.
func (g *GCP) gcpSentinel(st *status.Status, header metadata.MD, l *gcpLink) error {
	wrap := func(errs ...error) error {
		for _, e := range errs[1:] {
			errs[0] = fmt.Errorf("%w (%w)", errs[0], e)
		}
		return fmt.Errorf("%w: %s", errs[0], clip(st.Message()))
	}
	if text := st.Message(); strings.Contains(text, "received unexpected content-type") || strings.Contains(text, "missing HTTP content-type") ||
		strings.Contains(text, "received message larger than max") {
		// gRPC makes a code of what a proxy says, as if it were the store's.
		return fmt.Errorf("%w: it does not speak gRPC: %s", escrow.ErrNotStore, clip(text))
	}
	switch st.Code() {
	case codes.NotFound:
		return wrap(escrow.ErrNoPlace)
	case codes.PermissionDenied:
		return wrap(escrow.ErrDenied)
	case codes.Unauthenticated:
		if date := header.Get("date"); len(date) > 0 && clockWrong(date[0]) {
			return wrap(escrow.ErrClock)
		}
		return wrap(escrow.ErrUnauthenticated)
	case codes.DeadlineExceeded:
		return wrap(escrow.ErrTimeout)
	case codes.ResourceExhausted:
		return wrap(escrow.ErrRateLimited)
	case codes.FailedPrecondition:
		if strings.Contains(st.Message(), "constraints/gcp.resourceLocations") {
			return wrap(escrow.ErrLocation)
		}
		return wrap(escrow.ErrRefused, errPrecondition)
	case codes.AlreadyExists:
		return wrap(escrow.ErrRefused, errExists)
	case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented:
		return wrap(escrow.ErrRefused)
	case codes.DataLoss:
		return wrap(escrow.ErrCorrupt)
	case codes.Unavailable:
		dialled, text := l.dialled(), st.Message()
		switch {
		case neverLeft(dialled):
			return fmt.Errorf("%w: %s", escrow.ErrNeverLeft, wireText(dialled))
		case dialled != nil:
			return fmt.Errorf("%w: %s", escrow.ErrUnreachable, wireText(dialled))
		case g.o.Endpoint == "" && strings.Contains(text, "certificate has expired or is not yet valid"):
			// Google's certificates are neither: TLS itself says that our clock is off.
			return wrap(escrow.ErrClock)
		case strings.Contains(text, ": EOF"), strings.Contains(text, syscall.ECONNRESET.Error()), strings.Contains(text, syscall.EPIPE.Error()):
			return fmt.Errorf("%w: %s", escrow.ErrUnreachable, connectionBroke) // of which gRPC has only the text
		}
		return wrap(escrow.ErrUnreachable)
	default: // Canceled by the other side, Aborted, Internal, Unknown: it failed, and may work later
		return wrap(escrow.ErrUnreachable)
	}
}
