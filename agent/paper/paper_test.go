package paper

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/agent/printable/htmltest"
)

func sheet(t *testing.T) Sheet {
	t.Helper()
	k := key.Generate()
	t.Cleanup(k.Wipe)
	return Sheet{Key: k, Host: "web-1.containers.example.org", Keyfile: "/etc/containarium/secrets.key", Unit: "containarium.service",
		Proof:   "it could not be tried on the rows when this was printed; a person vouched for it on 2026-01-31",
		Printed: time.Date(2026, 2, 28, 23, 59, 0, 0, time.UTC), Version: "12.34.56-dev.7890"}
}

// scan reads the one QR code of an image with zbar, a decoder of other people.
func scan(t *testing.T, page []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "page.png")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("zbarimg", "--nodbus", "--quiet", "--raw", file).Output()
	if err != nil {
		t.Fatalf("zbarimg (make deps): %v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// opens demands that a text is the key.
func opens(t *testing.T, s Sheet, what, text string) {
	t.Helper()
	k, _, err := key.Decode([]byte(text))
	if err != nil || !k.Equal(s.Key) {
		t.Errorf("%s: %v, %v", what, k, err)
	}
	k.Wipe()
}

// TestHTMLEscapes: what a host is called, and its configuration says, is text on the page.
func TestHTMLEscapes(t *testing.T) {
	s := sheet(t)
	part, err := s.Key.Cut(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	render := func(s Sheet) []byte {
		page, err := s.UnsafeHTML()
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	htmltest.Escapes(t, func(text func(string) string) []byte {
		s.Host, s.Keyfile, s.Unit, s.Proof, s.Version = text("host"), text("keyfile"), text("unit"), text("proof"), text("version")
		return render(s)
	})
	s.Key, s.Part, s.Of = key.Key{}, part, 3
	htmltest.Escapes(t, func(text func(string) string) []byte {
		s.Host, s.Keyfile, s.Proof, s.Version, s.Part.Of = text("host"), text("keyfile"), text("proof"), text("version"), key.Fingerprint(text("fingerprint"))
		return render(s)
	})
}

// picture makes an image of a code.
func picture(t *testing.T, m [][]bool) []byte {
	t.Helper()
	const size = 4
	img := image.NewGray(image.Rect(0, 0, (len(m)+2*quiet)*size, (len(m)+2*quiet)*size))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			my, mx := y/size-quiet, x/size-quiet
			if my < 0 || my >= len(m) || mx < 0 || mx >= len(m[my]) || !m[my][mx] {
				img.SetGray(x, y, color.Gray{255})
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// drawn reads the code out of a text: two modules a letter.
func drawn(text string, width int) (m [][]bool) {
	for line := range strings.Lines(text) {
		if !strings.ContainsAny(line, "█▀▄") {
			continue
		}
		line = strings.NewReplacer("\x1b[30;107m", "", "\x1b[0m", "", "\n", "").Replace(line)
		row := []rune(line)
		up, down := make([]bool, width), make([]bool, width)
		for x := range min(width, len(row)) {
			up[x], down[x] = row[x] == '█' || row[x] == '▀', row[x] == '█' || row[x] == '▄'
		}
		m = append(m, up, down)
	}
	return m
}

func TestText(t *testing.T) {
	s := sheet(t)
	for _, s.Screen = range []bool{false, true} {
		page, err := s.UnsafeText()
		if err != nil {
			t.Fatal(err)
		}
		text := string(page)
		opens(t, s, "the text", text)
		opens(t, s, "its code", scan(t, picture(t, drawn(text, 37+2*quiet))))
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if !s.Screen && len(lines) > 66 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); !s.Screen && (n > columns || strings.TrimRight(line, " ") != line) {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if strings.Contains(text, "\x1b") != s.Screen {
			t.Errorf("escape sequences on a screen: %v", s.Screen)
		}
		complete(t, s, regexp.MustCompile(`[█▀▄]+`).ReplaceAllString(text, ""))
	}
}

// complete demands that a page says everything.
func complete(t *testing.T, s Sheet, text string) {
	t.Helper()
	for _, want := range []string{string(s.Key.Fingerprint()), s.Host, s.Keyfile, "2026-02-28", "keyguard import",
		"BIP-39", base64.StdEncoding.EncodeToString(s.Key.UnsafeBytes())} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestHTML(t *testing.T) {
	s := sheet(t)
	s.Host = "<script>&"
	page, err := s.UnsafeHTML()
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, never := range []string{"http", "src", "url(", "<script", "@import"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	text = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&", "&#39;", "'", "&#34;", `"`).Replace(text)
	complete(t, s, text)
	rows := regexp.MustCompile(`<tr>(?:<td>\w+</td>){6}</tr>`).FindAllString(text, -1)
	opens(t, s, "its words", regexp.MustCompile(`(</?t[dr]>)+`).ReplaceAllString(strings.Join(rows, "\n"), " "))
	m := make([][]bool, 37)
	for y := range m {
		m[y] = make([]bool, 37)
	}
	for _, run := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1h-(\d+)z`).FindAllStringSubmatch(text, -1) {
		var x, y, n, back int
		fmt.Sscan(strings.Join(run[1:], " "), &x, &y, &n, &back)
		if n != back {
			t.Fatalf("%q ends where it did not begin", run[0])
		}
		for i := range n {
			m[y][x+i] = true
		}
	}
	opens(t, s, "its code", scan(t, picture(t, m)))
}

func TestPNG(t *testing.T) {
	s := sheet(t)
	page, err := s.UnsafePNG()
	if err != nil {
		t.Fatal(err)
	}
	opens(t, s, "its code", scan(t, page))
	img, err := png.Decode(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() > 2100*dpi/254 || b.Dy() > 2794*dpi/254 {
		t.Errorf("%v is larger than what A4 and Letter have in common", b)
	}
	// Nothing runs out of the page: its margins are white.
	for y := range height {
		for x := range width {
			if inner := image.Rect(margin, margin, width-margin, height-margin); image.Pt(x, y).In(inner) {
				continue
			}
			if g := img.At(x, y).(color.Gray); g.Y != 255 {
				t.Fatalf("something is printed at %d,%d", x, y)
			}
		}
	}
}

// TestManyCodes: a decoder reads the code of any key, a third of it stained but for the corners.
func TestManyCodes(t *testing.T) {
	for range 10 {
		s := sheet(t)
		m, err := s.matrix()
		if err != nil {
			t.Fatal(err)
		}
		for y := 14; y < 20; y++ {
			for x := 20; x < 32; x++ {
				m[y][x] = true
			}
		}
		opens(t, s, "a stained code", scan(t, picture(t, m)))
	}
	for _, render := range []func(Sheet) ([]byte, error){Sheet.UnsafeText, Sheet.UnsafeHTML, Sheet.UnsafePNG} {
		if page, err := render(Sheet{}); err == nil || page != nil {
			t.Error("a sheet without a key was printed")
		}
	}
}

// TestInstructions plays what the sheet says to type without keyguard.
func TestInstructions(t *testing.T) {
	s := sheet(t)
	s.Keyfile = filepath.Join(t.TempDir(), "secrets.key")
	var script string
	for _, sec := range s.sections() {
		if strings.HasPrefix(sec.Title, "Without keyguard") {
			for _, line := range sec.Code {
				script += strings.Replace(line, "sudo ", "", 1) + "\n"
			}
		}
	}
	systemctl := filepath.Join(t.TempDir(), "systemctl")
	if err := os.WriteFile(systemctl, []byte("#!/bin/sh\necho \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for digits, input := range map[string]string{"base64 -d": s.code() + "\n", "xxd -r -p": fmt.Sprintf("%x\n", s.Key.UnsafeBytes())} {
		if err := os.WriteFile(s.Keyfile, []byte("present"), 0o400); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("sh", "-euc", strings.ReplaceAll(script, "base64 -d", digits))
		c.Env = append(os.Environ(), "PATH="+filepath.Dir(systemctl)+":"+os.Getenv("PATH"))
		c.Stdin = strings.NewReader(input)
		out, err := c.CombinedOutput()
		want := fmt.Sprintf("stop %s\n32 %s\n%s\nstart %s\n", s.Unit, s.Keyfile, s.Key.Fingerprint(), s.Unit)
		if err != nil || string(out) != want {
			t.Fatalf("%v: %q, want %q", err, out, want)
		}
		if data, err := os.ReadFile(s.Keyfile); err != nil || !bytes.Equal(data, s.Key.UnsafeBytes()) {
			t.Error("the key is not back")
		}
		if info, err := os.Stat(s.Keyfile); err != nil || info.Mode() != 0o400 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if before, err := os.ReadFile(s.Keyfile + ".before"); err != nil || string(before) != "present" {
			t.Errorf("what was there: %q, %v", before, err)
		}
		for _, file := range []string{s.Keyfile, s.Keyfile + ".before"} {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSave(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "keyguard-paper-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "key.txt")
	saved, err := Save(file, []byte("page"))
	if err != nil || !saved.InMemory {
		t.Errorf("%+v, %v", saved, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o400 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Save(file, []byte("another")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(file); string(data) != "page" {
		t.Errorf("%q", data)
	}
	if _, err := Save(filepath.Join(dir, "no", "key.txt"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// /proc is on no disk, and nothing that a page could be on.
	if saved, err := Save("/proc/self/key.txt", nil); err == nil || saved.InMemory {
		t.Errorf("%+v, %v", saved, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%v", files)
	}
}

// TestPartSheets: a part's page brings the part back in every form, and nothing of the key.
func TestPartSheets(t *testing.T) {
	s := sheet(t)
	k := s.Key
	part, err := k.Cut(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.Key, s.Part, s.Of = key.Key{}, part, 3
	is := func(what, text string) {
		t.Helper()
		parts, err := key.ReadParts([]byte(text))
		if err != nil || len(parts) != 1 || !parts[0].Equal(part) {
			t.Errorf("%s: %v, %v", what, parts, err)
		}
		if got, _, err := key.Decode([]byte(text)); err == nil {
			t.Errorf("%s reads as %v", what, got)
		}
		keytest.NoLeak(t, what, []byte(text), k)
	}
	page, err := s.UnsafeText()
	if err != nil {
		t.Fatal(err)
	}
	is("the text", string(page))
	m, err := s.matrix()
	if err != nil {
		t.Fatal(err)
	}
	is("its code", scan(t, picture(t, drawn(string(page), len(m)+2))))
	var words []string
	for i, line := range s.words() {
		words = append(words, fmt.Sprint(i+1, " ", strings.Join(line, " ")))
	}
	is("its words", strings.Join(words, "\n"))
	lines := strings.Split(strings.TrimSuffix(string(page), "\n"), "\n")
	if len(lines) > 66 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	html, err := s.UnsafeHTML()
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"the text": string(page), "HTML": string(html)} {
		flat := strings.Join(strings.Fields(text), " ")
		for _, want := range []string{"3 of 3: any 2 of them", "nobody who", string(k.Fingerprint()), "keyguard import"} {
			if !strings.Contains(flat, want) {
				t.Errorf("%s does not say %q", what, want)
			}
		}
	}
	image, err := s.UnsafePNG()
	if err != nil {
		t.Fatal(err)
	}
	is("the image", scan(t, image))
}

// TestHostIsALine: a host's name, whoever gave it, is a piece of one line on every form (law 10).
func TestHostIsALine(t *testing.T) {
	s := sheet(t)
	s.Host = "web\x1b[2J\nKey\xff\u202e"
	part, err := s.Key.Cut(2, 3)
	if err != nil {
		t.Fatal(err)
	}
	inParts := s
	inParts.Key, inParts.Part, inParts.Of = key.Key{}, part, 3
	const want = `web\x1b[2J\nKey\xff\u202e`
	for _, s := range []Sheet{s, inParts} {
		for name, form := range map[string]func() ([]byte, error){"text": s.UnsafeText, "HTML": s.UnsafeHTML} {
			page, err := form()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(html.UnescapeString(string(page)), want) {
				t.Errorf("%s does not tell the host's name in one line", name)
			}
		}
	}
}
