package secretmanager

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// issued is an access token that was given out.
type issued struct {
	identity string
	until    time.Time
}

const (
	tokenLife = time.Hour
	// tolerance is how far ahead of the server's clock an assertion may be issued.
	tolerance = 5 * time.Minute
)

// Token gives an identity an access token.
func (s *Server) Token(identity string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue(identity)
}

func (s *Server) issue(identity string) string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // it never fails
	t := "ya29.fake-" + hex.EncodeToString(b)
	s.tokens[t] = issued{identity, s.now().Add(tokenLife)}
	return t
}

// Revoke makes every token that was given out worthless.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Credentials returns a credentials file for an identity: "service_account" or
// "authorized_user".
func (s *Server) Credentials(identity, kind string) ([]byte, error) {
	file := map[string]string{"type": kind, "token_uri": s.TokenURL()}
	switch kind {
	case "service_account":
		s.mu.Lock()
		_, err := s.signingKey()
		text := s.state.SigningKey
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		file["client_email"], file["private_key"], file["private_key_id"] = identity, text, "1"
	case "authorized_user":
		file["client_id"], file["client_secret"], file["refresh_token"] = "client", "secret", "refresh-"+identity
		file["quota_project_id"] = "quota-project"
	default:
		return nil, fmt.Errorf("no kind %q", kind)
	}
	return json.MarshalIndent(file, "", "  ")
}

// signingKey returns the key of all service accounts, and makes it when first needed.
func (s *Server) signingKey() (*rsa.PrivateKey, error) {
	if s.state.SigningKey == "" {
		text, err := newSigningKey()
		if err != nil {
			return nil, err
		}
		s.state.SigningKey = text
		s.Save()
	}
	block, _ := pem.Decode([]byte(s.state.SigningKey))
	if block == nil {
		return nil, fmt.Errorf("the signing key is damaged")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return k.(*rsa.PrivateKey), nil
}

// newSigningKey makes one key a process: it takes longer than most tests.
var newSigningKey = sync.OnceValues(func() (string, error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
})

// MetadataProject is the project that the machine is in, as its metadata server says.
const MetadataProject = "machine-project"

// tokenHandler serves the token endpoint (RFC 7523, RFC 6749 section 6), and the
// machine's metadata.
func (s *Server) tokenHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls["token"]++
		w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
		switch s.takeFault("token", "").Kind {
		case Hang:
			s.mu.Unlock()
			select {
			case <-r.Context().Done():
			case <-s.done:
			}
			s.mu.Lock()
			return
		case Fail:
			http.Error(w, "a fault was asked for", http.StatusServiceUnavailable)
			return
		}
		identity, why := s.assertion(r)
		if why == "" {
			if _, known := s.state.Identities[identity]; !known {
				why = "Invalid grant: account not found"
			}
		}
		w.Header().Set("Content-Type", "application/json")
		if why != "" {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]any{"error": "invalid_grant", "error_description": why})
			return
		}
		reply(w, map[string]any{"access_token": s.issue(identity), "expires_in": int(tokenLife.Seconds()), "token_type": "Bearer"})
	})
	metadata := func(answer func(http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.calls["metadata"]++
			if r.Header.Get("Metadata-Flavor") != "Google" {
				http.Error(w, "Metadata-Flavor is missing", http.StatusForbidden)
				return
			}
			w.Header().Set("Metadata-Flavor", "Google")
			answer(w)
		}
	}
	mux.HandleFunc("GET /computeMetadata/v1/instance/service-accounts/default/token", metadata(func(w http.ResponseWriter) {
		if _, known := s.state.Identities["metadata"]; !known {
			http.Error(w, "no service account", http.StatusNotFound)
			return
		}
		reply(w, map[string]any{"access_token": s.issue("metadata"), "expires_in": int(tokenLife.Seconds()), "token_type": "Bearer"})
	}))
	mux.HandleFunc("GET /computeMetadata/v1/project/project-id", metadata(func(w http.ResponseWriter) {
		fmt.Fprint(w, MetadataProject)
	}))
	return mux
}

// assertion returns who asks for a token, or why not.
func (s *Server) assertion(r *http.Request) (identity, why string) {
	switch r.PostFormValue("grant_type") {
	case "refresh_token":
		who, ok := strings.CutPrefix(r.PostFormValue("refresh_token"), "refresh-")
		if !ok {
			return "", "Token has been expired or revoked."
		}
		return who, ""
	case "urn:ietf:params:oauth:grant-type:jwt-bearer":
	default:
		return "", "Invalid grant_type: " + r.PostFormValue("grant_type")
	}
	part := strings.Split(r.PostFormValue("assertion"), ".")
	if len(part) != 3 {
		return "", "Invalid JWT: Failed to decode."
	}
	k, err := s.signingKey()
	if err != nil {
		return "", err.Error()
	}
	sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil || rsa.VerifyPKCS1v15(&k.PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return "", "Invalid JWT Signature."
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Scope    string `json:"scope"`
		Audience string `json:"aud"`
		Issued   int64  `json:"iat"`
		Expires  int64  `json:"exp"`
	}
	body, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil || json.Unmarshal(body, &claims) != nil {
		return "", "Invalid JWT: Failed to decode."
	}
	now := s.now()
	issued, expires := time.Unix(claims.Issued, 0), time.Unix(claims.Expires, 0)
	switch {
	case issued.After(now.Add(tolerance)), expires.Before(now), expires.Sub(issued) > time.Hour+tolerance:
		return "", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
	case claims.Audience != s.TokenURL():
		return "", "Invalid JWT: Failed audience check."
	case claims.Scope == "":
		return "", "Empty or missing scope not allowed."
	}
	return claims.Issuer, ""
}

func reply(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // a caller who hung up does not want it
}
