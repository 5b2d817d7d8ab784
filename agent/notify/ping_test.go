package notify

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPing(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("a redirect was followed: %s", r.URL) }))
	defer elsewhere.Close()
	var asked []string
	place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		switch {
		case strings.HasPrefix(r.URL.Path, "/moved"):
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/gone"):
			http.Error(w, "secret-in-body", http.StatusNotFound)
		}
	}))
	defer place.Close()
	for _, c := range []struct {
		path    string
		success bool
		asked   string
		fails   string
	}{
		{"/secret", true, "GET /secret", ""},
		{"/secret", false, "GET /secret/fail", ""},
		{"/secret/?from=host", false, "GET /secret/fail?from=host", ""},
		{"", false, "GET /fail", ""},
		{"/moved/secret", true, "GET /moved/secret", "302 Found"},
		{"/gone/secret", true, "GET /gone/secret", "404 Not Found"},
	} {
		asked = nil
		call := PingFailure
		if c.success {
			call = Ping
		}
		err := call(t.Context(), place.URL+c.path)
		if len(asked) != 1 || asked[0] != c.asked {
			t.Errorf("%s, %t asked for %q", c.path, c.success, asked)
		}
		if (err != nil) != (c.fails != "") || (err != nil && !strings.HasSuffix(err.Error(), c.fails)) {
			t.Errorf("%s: %v; want %q", c.path, err, c.fails)
		}
		refused(t, err)
	}
	place.Close()
	refused(t, Ping(t.Context(), place.URL+"/secret"))
	refused(t, Ping(t.Context(), "http://nowhere.invalid/secret"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	refused(t, Ping(ended, "http://127.0.0.1/secret"))
}

// refused wants an error that does not tell the address: who knows it can send pings.
func refused(t *testing.T, err error) {
	t.Helper()
	if err != nil && (!errors.Is(err, ErrPing) || strings.Contains(err.Error(), "secret")) {
		t.Errorf("%v", err)
	}
}

// One that takes the connection and never answers is left when the time is over.
func TestPingHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	place := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel(); <-release }))
	defer place.Close()
	defer close(release)
	err := Ping(ctx, place.URL+"/secret")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	refused(t, err)
}
