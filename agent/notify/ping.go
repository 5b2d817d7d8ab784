package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// pingTimeout bounds one call of a dead-man's switch.
const pingTimeout = 10 * time.Second

// ErrPing says that a dead-man's switch did not take a ping. Its address is not in the
// text: whoever knows it can send pings (law 8).
var ErrPing = errors.New("the ping of ping_url was not taken")

// Ping tells a dead-man's switch that all is well: a GET of its URL. It follows no redirect,
// which would hand the URL to another place.
func Ping(ctx context.Context, address string) error { return ping(ctx, address, "") }

// PingFailure tells it that something failed: the same with /fail behind the URL's path.
func PingFailure(ctx context.Context, address string) error { return ping(ctx, address, "fail") }

func ping(ctx context.Context, address, below string) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%w: it is no URL", ErrPing)
	}
	if below != "" {
		u = u.JoinPath(below)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: it is no URL", ErrPing)
	}
	request.Header.Set("User-Agent", "keyguard")
	client := http.Client{
		// No connection is kept for the next ping, an hour away.
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(request)
	if err != nil {
		if with, ok := errors.AsType[*url.Error](err); ok {
			err = with.Err // without the address
		}
		return fmt.Errorf("%w: %w", ErrPing, err)
	}
	answer.Body.Close() //nolint:errcheck // nobody reads it
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%w: it answers %d %s", ErrPing, answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return nil
}
