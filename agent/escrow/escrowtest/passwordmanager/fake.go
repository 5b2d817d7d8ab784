// Package passwordmanager has stand-ins for the command line programs op (1Password,
// version 2) and bw (Bitwarden), and for a script of somebody's own. They behave as the
// real ones do where it matters: JSON of the same shapes, the same messages and statuses,
// duplicates made without a word, questions asked where nobody is. What the real ones
// would forgive is refused: other options than those of their manuals, a key that is not
// base64, secrets in an argument.
//
// Messages and shapes were taken from https://developer.1password.com/docs/cli/reference,
// https://bitwarden.com/help/cli and what users have reported.
package passwordmanager

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Item is one entry of an account.
type Item struct {
	ID, Vault, Title, Category, Text string
	At                               time.Time
}

// Account is what the programs work on: a directory. They find it as the real ones find
// theirs, by OP_CONFIG_DIR and BITWARDENCLI_APPDATA_DIR; the script by HOME.
type Account struct{ Dir string }

// Token is what the account accepts: OP_SERVICE_ACCOUNT_TOKEN, BW_SESSION.
const Token = "a-token-of-the-fakes-4711"

// Break has every run of a command fail in one way until it is healed with "". The
// command is as "item list", "document get", "sync"; "" is every one. Ways are:
//
//	expired   the session is no longer good
//	prompt    it asks for the password and reads the answer from standard input
//	tty       it asks on the terminal, if it can get one, else on standard error, and waits
//	hang      it does nothing, for ever
//	limited   too many requests
//	offline   no name service
//	denied    this identity may not
//	after     it does what was asked, and fails
//	junk      it prints what is no JSON, and no text
//	flood     it prints without end
//	leak      it prints its input on standard error, and fails
func (a Account) Break(command, way string) error {
	return os.WriteFile(filepath.Join(a.Dir, "fault"), []byte(command+"\n"+way), 0o600)
}

// Items reads the account.
func (a Account) Items() []Item {
	var items []Item
	data, err := os.ReadFile(filepath.Join(a.Dir, "items.json"))
	if err == nil {
		err = json.Unmarshal(data, &items)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		panic(err)
	}
	return items
}

// Change replaces the account's items, one program at a time.
func (a Account) Change(f func([]Item) []Item) {
	lock, err := os.OpenFile(filepath.Join(a.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		panic(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		panic(err)
	}
	data, err := json.Marshal(f(a.Items()))
	temp := filepath.Join(a.Dir, "items.new")
	if err == nil {
		err = os.WriteFile(temp, data, 0o600)
	}
	if err == nil {
		err = os.Rename(temp, filepath.Join(a.Dir, "items.json"))
	}
	if err != nil {
		panic(err)
	}
}

// Add makes an entry, whatever others have its title.
func (a Account) Add(i Item) {
	a.Change(func(all []Item) []Item {
		i.ID, i.At = fmt.Sprintf("%026d", len(all)+1), time.Now()
		return append(all, i)
	})
}

// status is how a program ends, and what it says before.
type status struct {
	code int
	said string
}

func fail(format string, a ...any) { panic(status{1, fmt.Sprintf(format, a...)}) }

// serve runs a program's body, and returns its exit status.
func serve(a Account, command string, ways map[string]string, body func()) (code int) {
	defer func() {
		if s, ok := recover().(status); ok {
			fmt.Fprintln(os.Stderr, s.said)
			code = s.code
		}
	}()
	if a.Dir == "" {
		fail("no account: the directory is not in the environment")
	}
	fault, _ := os.ReadFile(filepath.Join(a.Dir, "fault"))
	at, way, _ := strings.Cut(string(fault), "\n")
	if at != "" && at != command {
		way = ""
	}
	switch way {
	case "", "after":
	case "prompt":
		fmt.Fprint(os.Stderr, ways["prompt"])
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // there is no answer
		return 1
	case "tty":
		if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
			fmt.Fprint(tty, ways["prompt"])
			io.Copy(io.Discard, tty) //nolint:errcheck // somebody types
		}
		fmt.Fprint(os.Stderr, ways["prompt"])
		time.Sleep(time.Hour)
	case "hang":
		time.Sleep(time.Hour)
	case "junk":
		fmt.Println("Update available! 2024.1.0 -> 2024.2.0")
		return 0
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 1<<16)); err != nil {
				return 1
			}
		}
	case "leak":
		in, _ := io.ReadAll(os.Stdin)
		plain, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(string(in)))
		fmt.Fprintf(os.Stderr, "cannot parse %s: %s with token %s\n", in, plain, Token)
		return 1
	default:
		fail("%s", ways[way])
	}
	body()
	if way == "after" {
		fail("%s", ways["after"])
	}
	return 0
}

// flags takes options with a value and those without out of the arguments; any other is
// an error, as is an argument that could be a key.
func flags(args []string, with, without []string) (words []string, values map[string]string) {
	values = map[string]string{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case slices.Contains(with, a) && i+1 < len(args):
			i++
			values[a] = args[i]
		case slices.Contains(without, a):
			values[a] = "true"
		case strings.HasPrefix(a, "--"):
			fail("unknown flag: %s", a)
		default:
			words = append(words, a)
		}
	}
	for _, a := range args {
		if b, err := base64.StdEncoding.DecodeString(a); err == nil && len(b) >= 32 {
			fail("a secret in an argument")
		}
	}
	return words, values
}

func text() string {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail("%v", err)
	}
	if _, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(in))); err != nil {
		fail("standard input is no base64")
	}
	return string(in)
}

// Op is op with these arguments.
func Op(args []string) int {
	a := Account{os.Getenv("OP_CONFIG_DIR")}
	ways := map[string]string{
		"expired": "[ERROR] 2026/01/02 03:04:05 (401) Unauthorized: Your session expired, sign in to create a new session",
		"prompt":  "Enter the password for olga@example.com at my.1password.com: ",
		"limited": "[ERROR] 2026/01/02 03:04:05 (429) Too Many Requests: You've reached the maximum number of this type of requests this service account is allowed to make.",
		"offline": "[ERROR] 2026/01/02 03:04:05 Post \"https://my.1password.com/api/v3/auth\": dial tcp: lookup my.1password.com: no such host",
		"denied":  "[ERROR] 2026/01/02 03:04:05 (403) Forbidden: You aren't authorized to perform this action.",
		"after":   "[ERROR] 2026/01/02 03:04:05 unexpected EOF",
	}
	command := strings.Join(args[:min(2, len(args))], " ")
	return serve(a, command, ways, func() {
		words, o := flags(args, []string{"--vault", "--format", "--title", "--file-name"}, nil)
		if os.Getenv("OP_SERVICE_ACCOUNT_TOKEN") != Token {
			fail("[ERROR] 2026/01/02 03:04:05 You are not currently signed in. Please run `op signin --help` for instructions")
		}
		if v := o["--vault"]; v != "Infra" {
			fail("[ERROR] 2026/01/02 03:04:05 %q isn't a vault in this account. Specify the vault with its ID or name.", v)
		}
		find := func() Item {
			var found []Item
			for _, i := range a.Items() {
				if i.Vault == o["--vault"] && (i.ID == words[2] || i.Title == words[2]) {
					found = append(found, i)
				}
			}
			switch {
			case len(found) == 0:
				fail("[ERROR] 2026/01/02 03:04:05 %q isn't an item in the %q vault. Specify the item with its UUID, name, or domain.", words[2], o["--vault"])
			case len(found) > 1:
				fail("[ERROR] 2026/01/02 03:04:05 More than one item matches %q. Try again and specify the item by its ID:", words[2])
			}
			return found[0]
		}
		switch {
		case command == "item list" && o["--format"] == "json":
			list := []any{}
			for _, i := range a.Items() {
				if i.Vault == o["--vault"] {
					list = append(list, map[string]any{"id": i.ID, "title": i.Title, "version": 1, "vault": map[string]string{"id": "v1", "name": i.Vault},
						"category": i.Category, "created_at": i.At, "updated_at": i.At})
				}
			}
			json.NewEncoder(os.Stdout).Encode(list) //nolint:errcheck // a broken pipe
		case command == "document get":
			i := find()
			if i.Category != "DOCUMENT" {
				fail("[ERROR] 2026/01/02 03:04:05 %q isn't a document", words[2])
			}
			os.Stdout.WriteString(i.Text) //nolint:errcheck // a broken pipe
		case command == "item get" && o["--format"] == "json":
			i := find()
			json.NewEncoder(os.Stdout).Encode(map[string]any{"id": i.ID, "title": i.Title, "category": i.Category, "fields": []any{ //nolint:errcheck // a broken pipe
				map[string]any{"id": "username", "type": "STRING", "label": "username"},
				map[string]any{"id": "notesPlain", "type": "STRING", "purpose": "NOTES", "label": "notesPlain", "value": i.Text},
			}})
		case command == "document create" && len(words) == 3 && words[2] == "-" && o["--title"] != "":
			a.Add(Item{Vault: o["--vault"], Title: o["--title"], Category: "DOCUMENT", Text: text()})
			fmt.Println(`{"uuid":"x","createdAt":"2026-01-02T03:04:05Z"}`)
		default:
			fail("unknown command %q for \"op\"", command)
		}
	})
}

// Bw is bw with these arguments. It lists and reads what the last sync has brought.
func Bw(args []string) int {
	a := Account{os.Getenv("BITWARDENCLI_APPDATA_DIR")}
	ways := map[string]string{
		"expired": "Vault is locked.",
		"prompt":  "? Master password: [input is hidden] ",
		"limited": "Rate limit exceeded. Try again later.",
		"offline": "FetchError: request to https://identity.bitwarden.com/connect/token failed, reason: getaddrinfo ENOTFOUND identity.bitwarden.com",
		"denied":  "You do not have permission to do this.",
		"after":   "FetchError: request to https://api.bitwarden.com/ciphers failed, reason: read ECONNRESET",
	}
	command := args[0]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		command += " " + args[1]
	}
	return serve(a, command, ways, func() {
		words, o := flags(args, []string{"--search"}, []string{"--nointeraction"})
		if os.Getenv("BW_SESSION") != Token {
			if o["--nointeraction"] == "" {
				fmt.Fprint(os.Stderr, ways["prompt"])
				time.Sleep(time.Hour)
			}
			fail("Vault is locked.")
		}
		cache := filepath.Join(a.Dir, "synced.json")
		synced := func() (items []Item) {
			data, err := os.ReadFile(cache)
			if err == nil {
				err = json.Unmarshal(data, &items)
			}
			if err != nil {
				fail("You are not logged in.")
			}
			return items
		}
		show := func(i Item) any {
			return map[string]any{"object": "item", "id": i.ID, "type": 2, "name": i.Title, "notes": i.Text, "secureNote": map[string]int{"type": 0},
				"revisionDate": i.At, "creationDate": i.At, "deletedDate": nil, "login": nil, "folderId": nil, "organizationId": nil}
		}
		switch {
		case command == "sync":
			data, err := json.Marshal(a.Items())
			if err == nil {
				err = os.WriteFile(cache, data, 0o600)
			}
			if err != nil {
				fail("%v", err)
			}
			fmt.Print("Syncing complete.")
		case command == "list items":
			list := []any{}
			for _, i := range synced() {
				if strings.Contains(strings.ToLower(i.Title), strings.ToLower(o["--search"])) {
					list = append(list, show(i))
				}
			}
			json.NewEncoder(os.Stdout).Encode(list) //nolint:errcheck // a broken pipe
		case command == "get item" && len(words) == 3:
			for _, i := range synced() {
				if i.ID == words[2] {
					json.NewEncoder(os.Stdout).Encode(show(i)) //nolint:errcheck // a broken pipe
					return
				}
			}
			fail("Not found.")
		case command == "create item" && len(words) == 2:
			doc, err := base64.StdEncoding.DecodeString(text())
			var i struct {
				Type        int
				Name, Notes string
			}
			if err == nil {
				err = json.Unmarshal(doc, &i)
			}
			if err != nil || i.Type != 2 || i.Name == "" {
				fail("Error parsing the encoded request data.")
			}
			a.Add(Item{Title: i.Name, Text: i.Notes})
			fmt.Print("{}")
		default:
			fail("error: unknown command %q", command)
		}
	})
}

// Vaulty is a script as the configuration may name one: save, list and fetch, which is
// the first argument.
func Vaulty(args []string) int {
	a := Account{os.Getenv("HOME")}
	ways := map[string]string{"prompt": "Passphrase: ", "expired": "expired", "denied": "denied", "limited": "busy", "offline": "offline", "after": "lost"}
	code := map[string]int{"expired": 77, "denied": 77, "limited": 75, "offline": 69, "after": 70}
	got := serve(a, args[0], ways, func() {
		switch args[0] {
		case "list":
			for _, i := range a.Items() {
				fmt.Printf("%s\t%s\n", i.Title, i.At.UTC().Format(time.RFC3339Nano))
			}
		case "fetch":
			for _, i := range a.Items() {
				if i.Title == args[1] {
					os.Stdout.WriteString(i.Text) //nolint:errcheck // a broken pipe
					return
				}
			}
			panic(status{66, "nothing of this name"})
		case "save":
			a.Add(Item{Title: args[1], Text: text()})
		}
	})
	if got == 1 {
		fault, _ := os.ReadFile(filepath.Join(a.Dir, "fault"))
		_, way, _ := strings.Cut(string(fault), "\n")
		if c, ok := code[way]; ok {
			return c
		}
	}
	return got
}

// Programs are all of them, by name.
var Programs = map[string]func(args []string) int{"op": Op, "bw": Bw, "vaulty": Vaulty}
