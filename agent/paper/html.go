package paper

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"
)

// layout is black on white, without anything that a browser would fetch, and with
// margins that leave it one page of A4 as of Letter. It is parsed when needed, and not at
// every start of the daemon.
const layout = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{.Title}}</title>
<style>
@page { margin: 12mm }
* { color: #000; background: #fff }
body { font: 9.5pt/1.35 sans-serif; max-width: 184mm; margin: 0 auto }
h1 { font-size: 15pt; margin: 0 0 3mm; border-bottom: .6mm solid #000 }
h2 { font-size: 10.5pt; margin: 2.6mm 0 .4mm }
p { margin: 0 }
th { text-align: left; padding-right: 5mm; vertical-align: top }
.key { display: flex; gap: 8mm; align-items: center; border: .4mm solid #000; padding: 3mm; margin: 3mm 0 }
.key svg { width: 50mm; height: 50mm; flex: none }
.words { border-collapse: collapse; font: bold 11.5pt/1.5 monospace }
.words td { padding: 0 2.4mm 0 0 }
.words td:first-child { font-weight: normal }
.words td:last-child { border-left: .3mm solid #000; padding-left: 2.4mm }
.note { font-size: 8.5pt; margin: 1mm 0 }
code, pre { font: 9pt/1.4 monospace }
pre { margin: .6mm 0 0 6mm }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
<table>{{range .Facts}}
<tr><th>{{.Name}}</th><td>{{.Value}}</td></tr>{{end}}
</table>
<div class="key">
<svg viewBox="0 0 {{.Size}} {{.Size}}" shape-rendering="crispEdges" role="img" aria-label="QR code"><path d="{{.Path}}"/></svg>
<div>
<table class="words">{{range .Lines}}
<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>{{end}}
</table>
<p class="note">{{.WordsNote}}</p>
<p class="note">{{.CodeNote}}{{range .Code}}<br><code>{{.}}</code>{{end}}</p>
</div>
</div>{{range .Sections}}
<h2>{{.Title}}</h2>
<p>{{.Text}}</p>{{with .Code}}
<pre>{{range .}}{{.}}
{{end}}</pre>{{end}}{{end}}
</body>
</html>
`

// UnsafeHTML returns the page as HTML that stands alone.
func (s Sheet) UnsafeHTML() ([]byte, error) {
	m, err := s.matrix()
	if err != nil {
		return nil, err
	}
	var path strings.Builder
	for y, row := range m {
		for x := 0; x < len(row); x++ {
			run := x
			for run < len(row) && row[run] {
				run++
			}
			if run > x {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x, y, run-x, run-x)
				x = run
			}
		}
	}
	var lines [][]string
	for i, words := range s.words() {
		lines = append(lines, append([]string{fmt.Sprint(i + 1)}, words...))
	}
	page, err := template.New("sheet").Parse(layout)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = page.Execute(&b, map[string]any{
		"Title": s.title(), "Facts": s.facts(), "Size": len(m), "Path": path.String(), "Lines": lines,
		"WordsNote": s.wordsNote(), "CodeNote": s.codeNote(), "Code": s.printed(), "Sections": s.sections(),
	})
	return b.Bytes(), err
}
