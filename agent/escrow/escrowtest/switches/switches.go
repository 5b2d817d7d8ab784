// Package switches lets another process flip the switches of a fake, over HTTP.
package switches

import (
	"encoding/json"
	"net/http"
)

// Fake is a store that counts its calls, and fails as it is told to by an F.
type Fake[F any] interface {
	Calls() map[string]int
	Reset()
	Break(F)
	Heal()
}

// Mux is where a fake's switches are.
type Mux struct{ *http.ServeMux }

// New has the switches that every fake has:
//
//	GET    /calls    counters, JSON
//	DELETE /calls    set them to zero
//	POST   /faults   an F as JSON
//	DELETE /faults   Heal
func New[F any](s Fake[F]) Mux {
	m := Mux{http.NewServeMux()}
	m.On("GET /calls", func(w http.ResponseWriter, _ *http.Request) error { return json.NewEncoder(w).Encode(s.Calls()) })
	m.On("DELETE /calls", func(http.ResponseWriter, *http.Request) error { s.Reset(); return nil })
	m.On("POST /faults", func(_ http.ResponseWriter, r *http.Request) error {
		var f F
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			return err
		}
		s.Break(f)
		return nil
	})
	m.On("DELETE /faults", func(http.ResponseWriter, *http.Request) error { s.Heal(); return nil })
	return m
}

// On adds a switch. Its error is the caller's mistake.
func (m Mux) On(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
	m.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
}
