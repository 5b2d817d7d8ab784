package config

import (
	"cmp"
	"slices"
	"strings"
)

// The library tells which keys a file has, in its order, and not where they stand. Only
// where something is wrong does that matter: then the text is searched for them.

// lines are where the keys stand, from 1.
func (f *file) lines() []int {
	if f.at != nil {
		return f.at
	}
	code, _ := scan(f.text)
	cursor := 0
	for _, key := range f.keys {
		name := key[len(key)-1]
		for at := cursor; ; {
			i := strings.Index(code[at:], name)
			if i < 0 {
				break // written with escapes: it stands near the one before
			}
			at += i + len(name)
			if isKey(code, at-len(name), at) {
				cursor = at
				break
			}
		}
		f.at = append(f.at, 1+strings.Count(code[:cursor], "\n"))
	}
	return f.at
}

// isKey tells whether text[from:to] is a whole name, with what stands behind one.
func isKey(text string, from, to int) bool {
	if from > 0 && isKeyLetter(text[from-1]) {
		return false
	}
	rest := strings.TrimLeft(text[to:], "\"' \t")
	return rest != "" && strings.Contains("=.]", rest[:1])
}

func isKeyLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// scan finds the strings of a TOML text that are values, by their first and last byte, and
// blanks them and the comments out of it, so that what is left has keys alone. It takes any
// text: what is no TOML has no meaning to lose.
func scan(text string) (code string, values [][2]int) {
	out := []byte(text)
	for i := 0; i < len(text); {
		c := text[i]
		if c != '#' && c != '"' && c != '\'' {
			i++
			continue
		}
		end := i + 1
		switch quote := strings.Repeat(string(c), 3); {
		case c == '#':
			end = i + lineLength(text[i:])
		case strings.HasPrefix(text[i:], quote):
			end = len(text)
			for at := i + 3; at < len(text); at++ {
				if text[at] == '\\' && c == '"' {
					at++
				} else if strings.HasPrefix(text[at:], quote) {
					for end = at + 3; end < len(text) && text[end] == c; { // two more may belong to it
						end++
					}
					break
				}
			}
		default:
			for end < len(text) && text[end] != '\n' && text[end] != c {
				if text[end] == '\\' && c == '"' && !strings.HasPrefix(text[end+1:], "\n") {
					end++
				}
				end++
			}
			end = min(end, len(text))
			if strings.HasPrefix(text[end:], string(c)) {
				end++
			}
		}
		if c != '#' {
			if rest := strings.TrimLeft(text[end:], " \t"); rest != "" && strings.Contains("=.", rest[:1]) {
				i = end // a key
				continue
			}
			values = append(values, [2]int{i, end})
		}
		for ; i < end; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	return string(out), values
}

// lineLength is how far it is to the end of the line.
func lineLength(text string) int {
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		return i
	}
	return len(text)
}

// escrowOf is the escrow that the key with this number in keys belongs to, noEscrow for
// none, or for one that cannot be told from the others: in an array in brackets.
func (f *file) escrowOf(i int) int {
	heads := 0
	at := noEscrow
	for n, key := range f.keys {
		if len(key) == 1 && key[0] == "escrow" {
			heads++
			if n <= i {
				at++
			}
		}
	}
	if tables, _ := tablesOf(f.said["escrow"]); f.keys[i][0] != "escrow" || len(tables) != heads {
		return noEscrow
	}
	return at
}

// line is where a key of an escrow, or of none, stands; of one that the file leaves out,
// where its table begins; 0 for the file as a whole.
func (f *file) line(escrow int, name string) int {
	best, depth := 0, 0
	for i, key := range f.keys {
		if whole := key.String(); (name == whole || strings.HasPrefix(name, whole+".")) && len(key) > depth {
			if at := f.escrowOf(i); at == escrow || at == noEscrow {
				best, depth = f.lines()[i], len(key)
			}
		}
	}
	return best
}

// sorted are the problems in the order of the file.
func (f *file) sorted() []problem {
	for i, p := range f.problems {
		if p.Line == 0 {
			f.problems[i].Line = f.line(p.escrow, p.Key)
		}
	}
	slices.SortStableFunc(f.problems, func(a, b problem) int { return cmp.Compare(a.Line, b.Line) })
	return f.problems
}
