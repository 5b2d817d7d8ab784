package secretmanager

import (
	"io"
	"net/http"
	"strconv"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/switches"
)

// Control returns the handler that flips the switches from another process, those of package
// switches and these:
//
//	POST   /skew?by=-2h                             the server's clock
//	POST   /grant?identity=I&role=R&role=R          roles; none takes all away
//	GET    /token?identity=I                        an access token
//	DELETE /token                                   revoke all tokens
//	GET    /credentials?identity=I&type=T           a credentials file
//	POST   /version?secret=NAME                     add the body as a version, as by hand
//	GET    /version?secret=NAME                     the bytes of all versions, JSON
//	POST   /state?secret=NAME&version=N&state=S     ENABLED, DISABLED, DESTROYED
//	DELETE /secret?secret=NAME                      delete a secret
func (s *Server) Control() http.Handler {
	mux := switches.New[Fault](s)
	mux.On("POST /skew", func(_ http.ResponseWriter, r *http.Request) error {
		by, err := time.ParseDuration(r.FormValue("by"))
		if err == nil {
			s.Skew(by)
		}
		return err
	})
	mux.On("POST /grant", func(_ http.ResponseWriter, r *http.Request) error {
		if err := r.ParseForm(); err != nil {
			return err
		}
		var roles []Role
		for _, name := range r.Form["role"] {
			roles = append(roles, Role(name))
		}
		s.Grant(r.FormValue("identity"), roles...)
		return nil
	})
	mux.On("GET /token", func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, s.Token(r.FormValue("identity")))
		return err
	})
	mux.On("DELETE /token", func(http.ResponseWriter, *http.Request) error { s.Revoke(); return nil })
	mux.On("GET /credentials", func(w http.ResponseWriter, r *http.Request) error {
		file, err := s.Credentials(r.FormValue("identity"), r.FormValue("type"))
		if err == nil {
			_, err = w.Write(file)
		}
		return err
	})
	mux.On("POST /version", func(w http.ResponseWriter, r *http.Request) error {
		name := r.URL.Query().Get("secret")
		data, err := io.ReadAll(io.LimitReader(r.Body, maxPayload+1))
		if err == nil {
			_, err = io.WriteString(w, strconv.Itoa(s.Put(name, data)))
		}
		return err
	})
	mux.On("GET /version", func(w http.ResponseWriter, r *http.Request) error {
		reply(w, s.Versions(r.FormValue("secret")))
		return nil
	})
	mux.On("POST /state", func(_ http.ResponseWriter, r *http.Request) error {
		n, err := strconv.Atoi(r.FormValue("version"))
		if err != nil {
			return err
		}
		return s.Set(r.FormValue("secret"), n, pb.SecretVersion_State(pb.SecretVersion_State_value[r.FormValue("state")]))
	})
	mux.On("DELETE /secret", func(_ http.ResponseWriter, r *http.Request) error {
		s.Remove(r.FormValue("secret"))
		return nil
	})
	return mux
}
