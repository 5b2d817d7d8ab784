package secretmanager

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
)

// Control returns the handler that flips the switches from another process:
//
//	GET    /calls                                   counters, JSON
//	DELETE /calls                                   set them to zero
//	POST   /faults                                  a Fault as JSON
//	DELETE /faults                                  Heal
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
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		})
	}
	handle("GET /calls", func(w http.ResponseWriter, _ *http.Request) error { reply(w, s.Calls()); return nil })
	handle("DELETE /calls", func(http.ResponseWriter, *http.Request) error { s.Reset(); return nil })
	handle("POST /faults", func(_ http.ResponseWriter, r *http.Request) error {
		var f Fault
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			return err
		}
		s.Break(f)
		return nil
	})
	handle("DELETE /faults", func(http.ResponseWriter, *http.Request) error { s.Heal(); return nil })
	handle("POST /skew", func(_ http.ResponseWriter, r *http.Request) error {
		by, err := time.ParseDuration(r.FormValue("by"))
		if err == nil {
			s.Skew(by)
		}
		return err
	})
	handle("POST /grant", func(_ http.ResponseWriter, r *http.Request) error {
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
	handle("GET /token", func(w http.ResponseWriter, r *http.Request) error {
		_, err := io.WriteString(w, s.Token(r.FormValue("identity")))
		return err
	})
	handle("DELETE /token", func(http.ResponseWriter, *http.Request) error { s.Revoke(); return nil })
	handle("GET /credentials", func(w http.ResponseWriter, r *http.Request) error {
		file, err := s.Credentials(r.FormValue("identity"), r.FormValue("type"))
		if err == nil {
			_, err = w.Write(file)
		}
		return err
	})
	handle("POST /version", func(w http.ResponseWriter, r *http.Request) error {
		name := r.URL.Query().Get("secret")
		data, err := io.ReadAll(io.LimitReader(r.Body, maxPayload+1))
		if err == nil {
			_, err = io.WriteString(w, strconv.Itoa(s.Put(name, data)))
		}
		return err
	})
	handle("GET /version", func(w http.ResponseWriter, r *http.Request) error {
		reply(w, s.Versions(r.FormValue("secret")))
		return nil
	})
	handle("POST /state", func(_ http.ResponseWriter, r *http.Request) error {
		n, err := strconv.Atoi(r.FormValue("version"))
		if err != nil {
			return err
		}
		return s.Set(r.FormValue("secret"), n, pb.SecretVersion_State(pb.SecretVersion_State_value[r.FormValue("state")]))
	})
	handle("DELETE /secret", func(_ http.ResponseWriter, r *http.Request) error {
		s.Remove(r.FormValue("secret"))
		return nil
	})
	return mux
}
