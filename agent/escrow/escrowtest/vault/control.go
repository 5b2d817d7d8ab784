package vault

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/switches"
)

// Control returns the handler that flips the switches from another process, those of package
// switches and, for one engine, these. A policy here is the one that an escrow at a path needs;
// without a path, root.
//
//	POST   /seal?sealed=true            seal or unseal
//	GET    /token?path=P&ttl=720h       a token, renewable
//	DELETE /token                       revoke all tokens
//	GET    /approle?path=P&uses=N       role id and secret id, a line each
//	POST   /entry?path=P                what `vault kv put P value=@-` does with the body
//	DELETE /entry?path=P                an entry and its history
//	POST   /state?path=P&version=N&to=S deleted, destroyed, undeleted
func (s *Server) Control(mount string) http.Handler {
	mux := switches.New[Fault](s)
	// options reads a token's from the query, and makes the policy that they name.
	options := func(r *http.Request) (TokenOptions, error) {
		o := TokenOptions{Policies: []string{Root}, Renewable: true}
		if path := r.FormValue("path"); path != "" {
			s.Policy(path, Keyguard(s.version(mount), mount, path))
			o.Policies = []string{path}
		}
		var err error
		if ttl := r.FormValue("ttl"); ttl != "" {
			o.TTL, err = time.ParseDuration(ttl)
		}
		return o, err
	}
	mux.On("POST /seal", func(_ http.ResponseWriter, r *http.Request) error {
		sealed, err := strconv.ParseBool(r.FormValue("sealed"))
		if err == nil {
			s.Seal(sealed)
		}
		return err
	})
	mux.On("GET /token", func(w http.ResponseWriter, r *http.Request) error {
		o, err := options(r)
		if err == nil {
			_, err = io.WriteString(w, s.Token(o))
		}
		return err
	})
	mux.On("DELETE /token", func(http.ResponseWriter, *http.Request) error { s.Revoke(); return nil })
	mux.On("GET /approle", func(w http.ResponseWriter, r *http.Request) error {
		uses, err := strconv.Atoi(r.FormValue("uses"))
		if err != nil {
			return err
		}
		o, err := options(r)
		if err == nil {
			role, secret := s.AppRole(uses, o)
			_, err = fmt.Fprintf(w, "%s\n%s\n", role, secret)
		}
		return err
	})
	mux.On("POST /entry", func(_ http.ResponseWriter, r *http.Request) error {
		path := r.URL.Query().Get("path")
		value, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err == nil {
			err = s.Put(mount, path, map[string]any{"value": string(value)})
		}
		return err
	})
	mux.On("DELETE /entry", func(_ http.ResponseWriter, r *http.Request) error {
		s.Remove(mount, r.FormValue("path"))
		return nil
	})
	mux.On("POST /state", func(_ http.ResponseWriter, r *http.Request) error {
		n, err := strconv.Atoi(r.FormValue("version"))
		if err == nil {
			err = s.Set(mount, r.FormValue("path"), n, r.FormValue("to"))
		}
		return err
	})
	return mux
}

// Mounted tells whether there is an engine of this name.
func (s *Server) Mounted(name string) bool { return s.version(name) >= 0 }

func (s *Server) version(mount string) (version int) {
	s.change(func() {
		version = -1
		if m := s.state.Mounts[mount]; m != nil {
			version = m.Version
		}
	})
	return version
}
