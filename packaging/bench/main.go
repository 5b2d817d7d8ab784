// Command bench runs the benchmarks of what design and users wait for, and prints one table:
// each path against its floor in the same run. With -write it puts the table and a plot into
// docs/performance.md, beside the machine and the date.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// suites are the benchmarks of one go test each.
var suites = []struct {
	pkg, bench, each string // each is -benchtime
	runs             int
}{
	{"./cmd/keyguard", "^BenchmarkPrestart$", "60x", 3},
	{"./cmd/keyguard", "^BenchmarkRestore$", "20x", 3},
	{"./agent/ledger", "^BenchmarkRead$", "5x", 3},
	{"./agent/rows", "^BenchmarkProve$", "6x", 1},
	{"./agent/rows", "^BenchmarkProveLarge$", "6x", 1},
	{"./agent", "^BenchmarkRotate$/^rows=(3000|50000)$", "4x", 3},
	{"./agent", "^BenchmarkScale$", "3x", 1},
	{"./hooks", "^BenchmarkWatch$/^events$", "20x", 3},
}

// table is what is printed of them: a unit of a benchmark.
var table = []struct{ path, bench, unit, against, target string }{
	{"healthy prestart", "Prestart", "x-linked", "a program that links the same and exits", "≤ 1.2"},
	{"restore at a start, Secret Manager", "Restore/gcp", "x-linked", "the same", "≤ 3"},
	{"restore at a start, Vault", "Restore/vault", "x-linked", "the same", "≤ 3"},
	{"restore at a start, directory", "Restore/directory", "x-linked", "the same", "≤ 3"},
	{"restore at a start, pass", "Restore/pass", "x-linked", "the same", ""},
	{"restore at a start, split of three", "Restore/split", "x-slowest", "the slowest of its stores alone, by the clock", "≤ 1.3"},
	{"gcloud, only starting", "Restore/gcloud", "x-linked", "the same", ""},
	{"five years of ledger, read", "Read", "ns/op", "", ""},
	{"sample of 1 M rows", "Prove", "sample-ms", "", "≤ 500 ms"},
	{"… how many times faster", "Prove", "sample-ratio", "a plain scan on one connection", ""},
	{"full proof of 1 M rows", "Prove", "ratio", "the same: how many times faster", "≥ 1.5"},
	{"8 000 rows of 64 KiB, proven", "ProveLarge", "proof-ms", "", "≤ 1000 ms"},
	{"rotation, 3 000 rows of 256 B", "Rotate/rows=3000/size=256", "ratio", "one UPDATE of every row", "≤ 2"},
	{"… of it the daemon is down", "Rotate/rows=3000/size=256", "downtime-ratio", "the same", "≤ 1.5"},
	{"… row by row, by hand", "Rotate/rows=3000/size=256", "by-hand-ratio", "the same", ""},
	{"rotation, 50 000 rows of 256 B", "Rotate/rows=50000/size=256", "ratio", "the same", "≤ 2"},
	{"… of it the daemon is down", "Rotate/rows=50000/size=256", "downtime-ratio", "the same", "≤ 1.5"},
	{"rotation, 3 000 rows of 64 KiB", "Rotate/rows=3000/size=65536", "ratio", "the same", "≤ 2"},
	{"… of it the daemon is down", "Rotate/rows=3000/size=65536", "downtime-ratio", "the same", "≤ 1.5"},
	{"key changed → stored, read back, proven", "Watch/events", "p99-ms", "250 ms of it are the debounce", "≤ 300 ms"},
}

// plots are the panels of the plot.
var plots = []struct{ grows, what string }{{"rows", "rows"}, {"copies", "copies in one escrow"}, {"escrows", "escrows"}}

// results are the values of each unit of each benchmark.
type results map[string]map[string][]float64

var line = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// add takes the lines of go test -bench.
func (r results) add(output []byte) {
	for text := range strings.Lines(string(output)) {
		m := line.FindStringSubmatch(strings.TrimSpace(text))
		if m == nil {
			continue
		}
		if r[m[1]] == nil {
			r[m[1]] = map[string][]float64{}
		}
		words := strings.Fields(m[2])
		for i := 0; i+1 < len(words); i += 2 {
			if value, err := strconv.ParseFloat(words[i], 64); err == nil {
				r[m[1]][words[i+1]] = append(r[m[1]][words[i+1]], value)
			}
		}
	}
}

// shown is a result with its spread.
func shown(values []float64, unit string) string {
	if len(values) == 0 {
		return "not measured"
	}
	values = slices.Sorted(slices.Values(values))
	switch {
	case unit == "ns/op":
		unit = " ms"
		for i := range values {
			values[i] /= 1e6
		}
	case strings.HasSuffix(unit, "-ms"):
		unit = " ms"
	default:
		unit = " ×"
	}
	digits := func(v float64) string {
		return strconv.FormatFloat(v, 'f', map[bool]int{true: 2, false: 0}[v < 20], 64)
	}
	text := digits(values[len(values)/2]) + unit
	if len(values) > 1 {
		text += " (" + digits(values[0]) + "–" + digits(values[len(values)-1]) + ")"
	}
	return text
}

func (r results) table() string {
	var b strings.Builder
	fmt.Fprintln(&b, "| path | measured | against | target |\n|---|---|---|---|")
	for _, t := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", t.path, shown(r[t.bench][t.unit], t.unit), t.against, t.target)
	}
	return b.String()
}

// plot draws what growing costs, in bars whose length is the logarithm of milliseconds.
func (r results) plot() string {
	var b strings.Builder
	const perDecade, left, height = 120.0, 130, 18
	y := 0
	for _, p := range plots {
		y += height
		fmt.Fprintf(&b, "<text x='0' y='%d' font-weight='bold'>%s</text>\n", y, p.what)
		var grown []int
		for name := range r {
			if n, ok := strings.CutPrefix(name, "Scale/"+p.grows+"="); ok {
				i, _ := strconv.Atoi(n)
				grown = append(grown, i)
			}
		}
		slices.Sort(grown)
		for _, n := range grown {
			ms := slices.Min(r[fmt.Sprintf("Scale/%s=%d", p.grows, n)]["ms"])
			y += height
			width := 1 + perDecade*max(0, math.Log10(ms))
			fmt.Fprintf(&b, "<text x='%d' y='%d' text-anchor='end'>%d</text><rect x='%d' y='%d' width='%.0f' height='12' fill='#47a'/><text x='%.0f' y='%d'>%.1f ms</text>\n",
				left-8, y, n, left, y-11, width, left+width+6, y, ms)
		}
		y += height / 2
	}
	return fmt.Sprintf("<svg xmlns='http://www.w3.org/2000/svg' width='640' height='%d' font-family='sans-serif' font-size='13'>\n%s</svg>\n", y+height, b.String())
}

// machine is where and when this was measured, and how busy it was.
func machine() string {
	name := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			name, _, _ = strings.Cut(rest, "\n")
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(load), " ")
	text := fmt.Sprintf("%s, %d cores of %s, %s, load average %s when it ended.", time.Now().Format("2006-01-02 15:04"), runtime.NumCPU(), name, runtime.Version(), one)
	if busy, err := strconv.ParseFloat(one, 64); err == nil && busy > float64(2*runtime.NumCPU()) {
		text += " The machine was busy with other work: times mean little, and ratios of them not much more."
	}
	return text
}

// measure runs the suites, and the rest of them where one fails.
func (r results) measure() error {
	var failed error
	for _, s := range suites {
		began := time.Now()
		c := exec.Command("go", "test", "-run", "^$", "-bench", s.bench, "-benchtime", s.each, "-count", strconv.Itoa(s.runs), s.pkg)
		c.Stderr = os.Stderr
		output, err := c.Output()
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s of %s: %w\n%s", s.bench, s.pkg, err, output))
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", strings.Trim(s.bench, "^$"), time.Since(began).Seconds())
		r.add(output)
	}
	return failed
}

const (
	page       = "docs/performance.md"
	picture    = "docs/performance.svg"
	tableBegin = "<!-- make bench writes from here -->\n"
	tableEnd   = "<!-- to here -->\n"
)

func run() error {
	write := flag.Bool("write", false, "put the results into "+page)
	from := flag.String("from", "", "take the output of go test -bench in this `file`, and run nothing")
	flag.Parse()
	all := results{}
	var failed error
	if *from != "" {
		output, err := os.ReadFile(*from)
		if err != nil {
			return err
		}
		all.add(output)
	} else {
		failed = all.measure()
	}
	text := machine() + "\n\n" + all.table()
	fmt.Print(text)
	if !*write || failed != nil {
		return failed
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, begins := bytes.Cut(old, []byte(tableBegin))
	_, after, ends := bytes.Cut(rest, []byte(tableEnd))
	if !begins || !ends {
		return fmt.Errorf("%s has no place for the table", page)
	}
	made := slices.Concat(before, []byte(tableBegin+text+tableEnd), after)
	if err := os.WriteFile(page, made, 0o644); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(all.plot()), 0o644)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
