package secretmanager

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// ask sends a request to the REST front, and returns the status and the answer.
func ask(t *testing.T, s *Server, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.RESTURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s %s: %s: %v", method, path, text, err)
	}
	if resp.Header.Get("Date") == "" {
		t.Errorf("%s %s: no date", method, path)
	}
	return resp.StatusCode, answer
}

// TestREST is a secret's life in JSON, seen from gRPC's side too, with everything that a
// client must not do and the error for it.
func TestREST(t *testing.T) {
	s, _ := start(t, Options{MaxPage: 2})
	s.Grant("olga", Admin)
	s.Grant("reader", Accessor)
	token := s.Token("olga")
	const v1 = "v1/" + project
	add := func(data, sum string) string {
		return fmt.Sprintf(`{"payload": {"data": %q, "dataCrc32c": %q}}`, data, sum)
	}
	sumX, sumY := fmt.Sprint(*checksum([]byte("x"))), fmt.Sprint(*checksum([]byte("y")))
	for _, tt := range []struct {
		what, method, path, body string
		code                     int
		status                   string // of an error
		in                       string // what the answer has
	}{
		{"no such path", "GET", "v2/" + project, "", 404, "NOT_FOUND", "was not found on this server"},
		{"nothing yet", "GET", v1 + "/secrets/s", "", 404, "NOT_FOUND", "Secret [projects/"},
		{"no replication", "POST", v1 + "/secrets?secretId=s", `{}`, 400, "INVALID_ARGUMENT", "replication is required"},
		{"created", "POST", v1 + "/secrets?alt=json&secretId=s", `{"replication": {"automatic": {}}, "labels": {"a": "b"}}`, 200, "", "/secrets/s"},
		{"created again", "POST", v1 + "/secrets?secretId=s", `{"replication": {"automatic": {}}}`, 409, "ALREADY_EXISTS", "already exists"},
		{"no version", "GET", v1 + "/secrets/s/versions/latest:access", "", 404, "NOT_FOUND", "has no versions"},
		{"no checksum", "POST", v1 + "/secrets/s:addVersion", `{"payload": {"data": "eA=="}}`, 400, "INVALID_ARGUMENT", "data_crc32c is missing"},
		{"a wrong checksum", "POST", v1 + "/secrets/s:addVersion", add("eA==", sumY), 400, "INVALID_ARGUMENT", "does not match data_crc32c"},
		{"an unknown field", "POST", v1 + "/secrets/s:addVersion", `{"pay": {}}`, 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"no JSON", "POST", v1 + "/secrets/s:addVersion", `payload`, 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"an unknown parameter", "GET", v1 + "/secrets/s?verbose=1", "", 400, "INVALID_ARGUMENT", "verbose"},
		{"a parameter beside a body", "POST", v1 + "/secrets/s:addVersion?secretId=s", add("eA==", sumX), 400, "INVALID_ARGUMENT", "Cannot bind query parameter"},
		{"a body where none is", "GET", v1 + "/secrets/s", `{}`, 400, "INVALID_ARGUMENT", "no body"},
		{"version 1", "POST", v1 + "/secrets/s:addVersion", add("eA==", sumX), 200, "", "versions/1"},
		{"version 2", "POST", v1 + "/secrets/s:addVersion", add("eA==", sumX), 200, "", "versions/2"},
		{"version 3", "POST", v1 + "/secrets/s:addVersion", add("eA==", sumX), 200, "", "versions/3"},
		{"the newest", "GET", v1 + "/secrets/s/versions/latest:access", "", 200, "", "dataCrc32c:" + sumX},
		{"described", "GET", v1 + "/secrets/s/versions/3", "", 200, "", "state:ENABLED"},
		{"disabled", "POST", v1 + "/secrets/s/versions/3:disable", "{}", 200, "", "state:DISABLED"},
		{"the newest is disabled", "GET", v1 + "/secrets/s/versions/latest:access", "", 400, "FAILED_PRECONDITION", "is in DISABLED state."},
		{"an old etag", "POST", v1 + "/secrets/s/versions/3:enable", `{"etag": "\"1\""}`, 400, "FAILED_PRECONDITION", "does not match"},
		{"enabled", "POST", v1 + "/secrets/s/versions/3:enable", "{}", 200, "", "state:ENABLED"},
		{"destroyed", "POST", v1 + "/secrets/s/versions/2:destroy", "{}", 200, "", "state:DESTROYED"},
		{"no such version", "GET", v1 + "/secrets/s/versions/9:access", "", 404, "NOT_FOUND", "Secret Version [projects/"},
		{"a page too long", "GET", v1 + "/secrets/s/versions?pageSize=25001", "", 400, "INVALID_ARGUMENT", "page_size"},
		{"a page token of nobody", "GET", v1 + "/secrets/s/versions?pageToken=x", "", 400, "INVALID_ARGUMENT", "Invalid page_token"},
		{"an update without a mask", "PATCH", v1 + "/secrets/s", `{"labels": {"a": "c"}, "etag": "\"1\""}`, 400, "INVALID_ARGUMENT", "update_mask"},
		{"an update", "PATCH", v1 + "/secrets/s?updateMask=labels", `{"labels": {"a": "c"}, "etag": "\"1\""}`, 200, "", "a:c"},
		{"another region's", "GET", v1 + "/locations/europe-west1/secrets/s", "", 400, "INVALID_ARGUMENT", "does not serve"},
		{"what may I", "POST", v1 + "/secrets/s:testIamPermissions", `{"permissions": ["secretmanager.versions.add"]}`, 200, "", "secretmanager.versions.add"},
		{"all", "GET", v1 + "/secrets", "", 200, "", "totalSize:1"},
		{"deleted", "DELETE", v1 + "/secrets/s?etag=%222%22", "", 200, "", ""},
	} {
		code, answer := ask(t, s, token, tt.method, tt.path, tt.body)
		failed, _ := answer["error"].(map[string]any)
		if failed == nil {
			failed = map[string]any{"status": ""}
		} else if failed["code"] != float64(code) {
			t.Errorf("%s: status %d with the code %v", tt.what, code, failed["code"])
		}
		if code != tt.code || failed["status"] != tt.status || !strings.Contains(fmt.Sprint(answer), tt.in) {
			t.Errorf("%s: %d %v, want %d %s %q", tt.what, code, answer, tt.code, tt.status, tt.in)
		}
	}

	// Pages, whoever asks for longer ones.
	for range 3 {
		s.Put(name, []byte("y"))
	}
	var got []string
	for page := ""; ; {
		_, answer := ask(t, s, token, "GET", v1+"/secrets/s/versions?pageSize=0&pageToken="+page, "")
		for _, v := range answer["versions"].([]any) {
			full := v.(map[string]any)["name"].(string)
			got = append(got, full[strings.LastIndexByte(full, '/')+1:])
		}
		if page, _ = answer["nextPageToken"].(string); page == "" {
			break
		}
	}
	if strings.Join(got, " ") != "3 2 1" {
		t.Errorf("listed %v", got)
	}

	// Who may.
	for what, tt := range map[string]struct {
		token string
		code  int
	}{"nobody": {"", 401}, "a forged token": {"ya29.x", 401}, "a stranger": {s.Token("x"), 403}, "a reader": {s.Token("reader"), 200}} {
		if code, answer := ask(t, s, tt.token, "GET", v1+"/secrets/s/versions/1:access", ""); code != tt.code {
			t.Errorf("%s: %d %v, want %d", what, code, answer, tt.code)
		}
	}

	// Faults are those of gRPC.
	s.Break(Fault{Kind: Fail, Method: "AccessSecretVersion", Code: codes.Unavailable, Times: 1})
	if code, answer := ask(t, s, token, "GET", v1+"/secrets/s/versions/1:access", ""); code != 503 {
		t.Errorf("a failure: %d %v", code, answer)
	}
	s.Break(Fault{Kind: CutBefore, Times: 1})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.RESTURL()+v1+"/secrets/s", nil)
	transport := &http.Transport{DisableKeepAlives: true} // else the client asks once more by itself
	if resp, err := transport.RoundTrip(req); err == nil {
		t.Errorf("a cut: %s", resp.Status)
	}
	if n := s.Calls()["GetSecret"]; n == 0 {
		t.Error("its calls are not counted")
	}
}
