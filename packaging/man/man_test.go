package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/config"
)

const description = `{"version": "1.2.3",
"groups": [{"id": "people", "title": "Commands for people"}],
"program": {"name": "keyguard", "short": "guard it", "long": "keyguard guards.\n\n.It's \\fine~", "example": "  keyguard tell",
	"flags": [{"name": "config", "value": "file", "usage": "the configuration"}]},
"commands": [{"name": "tell", "usage": "keyguard tell WHAT [flags]", "group": "people", "short": "tell it",
	"long": "tell tells what\nwatch(8) does:\n\n  as\n    it is\n\nExit status: 0 done; 12 an escrow\nfailed.", "example": "  keyguard tell --all 'x'",
	"flags": [{"name": "all", "shorthand": "a", "usage": "all of it"}]}],
"exits": [{"code": 0, "meaning": "done"}, {"code": 12, "meaning": "an escrow failed"}]}`

var from = sources{"../../agent/config/config.go", "../../hooks/events.go", "../../units/catalog/keyguard.catalog"}

// pages writes all pages and sets them as man(1) does.
func pages(t *testing.T) map[string]string {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if err := write(strings.NewReader(description), dir, from); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	set := map[string]string{}
	for _, f := range files {
		c := exec.Command("man", "--warnings", "--encoding=UTF-8", "--no-hyphenation", "--no-justification", "--local-file", f)
		c.Env = append(os.Environ(), "MANWIDTH=200", "LC_ALL=C.UTF-8")
		var warnings bytes.Buffer
		c.Stderr = &warnings
		out, err := c.Output()
		if err != nil || warnings.Len() > 0 {
			t.Errorf("%s: %v, %s", f, err, &warnings)
		}
		set[filepath.Base(f)] = string(out)
	}
	return set
}

func TestPages(t *testing.T) {
	set := pages(t)
	for name, wants := range map[string][]string{
		"keyguard.8": {"2023-11-14", "keyguard 1.2.3", `.It's \fine~`, "keyguard-tell(8)", "Commands for people", "--config file",
			"12     an escrow failed.", "KEYGUARD_CONFIG", "journalctl(1)"},
		"keyguard-tell.8": {"keyguard-tell - tell it", "keyguard tell [options] WHAT", "tell tells what watch(8) does:", "\n             it is\n",
			"-a, --all", "12     an escrow failed.", "keyguard tell --all 'x'"},
		"keyguard.toml.5": {`Default: "/etc/containarium/secrets.key".`, `Default: "20s".`, `Default: "1m".`, "Default: 10.", "role_id_file, secret_id_file",
			`kind = "vault-kv"`, "owned by owner", "77     Denied, or not logged in."},
		"keyguard-events.7": {"KEYGUARD_FINGERPRINT", "parked", "The daemon was started without a key. MESSAGE_ID 3943075fca834805a209eb0c28773864.", "keyguard verify"},
	} {
		for _, want := range wants {
			if !strings.Contains(set[name], want) && !strings.Contains(strings.Join(strings.Fields(set[name]), " "), want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
	if strings.Contains(set["keyguard-tell.8"], "Exit status:") {
		t.Error("the exit status stands in the description too")
	}
}

// TestEveryKeyIsThere: each key of the configuration has its item, under its table.
func TestEveryKeyIsThere(t *testing.T) {
	text := pages(t)["keyguard.toml.5"]
	found := 0
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			switch key := f.Tag.Get("toml"); {
			case key == "-":
			case f.Type.Kind() == reflect.Struct:
				look(f.Type)
			case table(f):
				look(f.Type.Elem())
			default:
				found++
				if !regexp.MustCompile(`(?m)^ {7}([a-z_]+, )*` + key + `(, [a-z_]+)* \(`).MatchString(text) {
					t.Errorf("%s.%s has no item", typ.Name(), key)
				}
			}
		}
	}
	look(reflect.TypeFor[config.Config]())
	if found < 30 {
		t.Errorf("only %d keys were found", found)
	}
}

func TestExample(t *testing.T) {
	if c, err := config.Parse([]byte(example), "the example"); err != nil || c.Wrong() != nil {
		t.Error(err, c)
	}
}

func TestRefuses(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	good, err := os.ReadFile(from.config)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(string, string) (string, string){
		"no JSON":               func(string, string) (string, string) { return "{", string(good) },
		"no exit status":        func(d, f string) (string, string) { return strings.Replace(d, "Exit status", "It ends", 1), f },
		"a status with no code": func(d, f string) (string, string) { return strings.Replace(d, "0 done;", "done;", 1), f },
		"a field with no words": func(d, f string) (string, string) { return d, strings.Replace(f, "// Budget is", "//go:budget is", 1) },
		"no Go":                 func(d, f string) (string, string) { return d, "package" },
	} {
		d, f := change(description, string(good))
		file := filepath.Join(t.TempDir(), "config.go")
		if err := os.WriteFile(file, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := write(strings.NewReader(d), t.TempDir(), sources{file, from.events, from.catalog}); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if err := write(strings.NewReader(description), t.TempDir(), from); err == nil {
		t.Error("pages were made without a date")
	}
}

// TestEventsAreWhole: the page knows every variable that hooks get, and no other, and what
// programs end with is what the escrow makes of it.
func TestEventsAreWhole(t *testing.T) {
	source, err := os.ReadFile(from.events)
	if err != nil {
		t.Fatal(err)
	}
	var known, used []string
	for _, v := range variables {
		known = append(known, v[0])
	}
	for _, m := range regexp.MustCompile(`"([A-Z]+)": |f\["(?:KEYGUARD_)?([A-Z]+)"\] =|, "([A-Z]+)": `).FindAllStringSubmatch(string(source), -1) {
		used = append(used, m[1]+m[2]+m[3])
	}
	slices.Sort(known)
	slices.Sort(used)
	if used = slices.Compact(used); !slices.Equal(known, used) {
		t.Errorf("the page has the variables %q, and hooks get %q", known, used)
	}
	programs, err := os.ReadFile("../../agent/escrow/kinds/commandrun.go")
	if err != nil {
		t.Fatal(err)
	}
	statuses := regexp.MustCompile(`statuses = map\[int\]error\{(.*)\}`).FindStringSubmatch(string(programs))
	if statuses == nil {
		t.Fatal("commandrun.go has no statuses")
	}
	for _, code := range regexp.MustCompile(`\d+`).FindAllString(statuses[1], -1) {
		if !slices.ContainsFunc(programStatuses, func(s [2]string) bool { return s[0] == code }) {
			t.Errorf("keyguard.toml(5) does not tell of %s", code)
		}
	}
	if events, err := eventsOf(source); err != nil || len(events) < 20 {
		t.Errorf("%d events, %v", len(events), err)
	}
	for what, wrong := range map[string][2]string{
		"an event that the catalog lacks": {string(source), ""},
		"an event without an id":          {strings.Replace(string(source), `id: "9f97`, `was: "9f97`, 1), "-- x\n"},
		"no event":                        {"package hooks", ""},
		"no Go":                           {"hooks", ""},
	} {
		if _, err := eventsPage([]byte(wrong[0]), []byte(wrong[1]), "1", "2"); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
