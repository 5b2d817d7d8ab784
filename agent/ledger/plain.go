package ledger

import (
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// reader decodes lines. A ledger of years is read whole on the way of every save and of
// unhealthy starts, and encoding/json takes most of that time. So a line as Append writes
// nearly all of them is read here, and any other by encoding/json, to the same entry. The
// texts of an entry are parts of one copy of its line.
type reader struct {
	rest string // of the line
}

// plain reads a line that is one object of texts without escapes, counts, what is true, and
// lists of such, without a space between them, into an empty entry. It reports false for any
// other, whether an entry or none.
func (r *reader) plain(line []byte, e *Entry) (ok bool) {
	r.rest = string(line)
	for open := byte('{'); r.next(open); open = ',' {
		name, ok := r.text()
		if !ok || !r.next(':') || !r.field(e, name) {
			return false
		}
		if r.next('}') {
			return len(r.rest) == 0
		}
	}
	return false
}

func (r *reader) field(e *Entry, name string) (ok bool) {
	switch name {
	case "seq":
		e.Seq, ok = count[uint64](r)
	case "time":
		e.Time, ok = r.time()
	case "event":
		e.Event, ok = word[Event](r)
	case "fingerprint":
		e.Fingerprint, ok = word[key.Fingerprint](r)
	case "old":
		e.Old, ok = word[key.Fingerprint](r)
	case "escrow":
		e.Escrow, ok = word[string](r)
	case "copy":
		e.Copy, ok = word[string](r)
	case "shelf":
		e.Shelf, ok = word[string](r)
	case "verdict":
		e.Verdict, ok = word[string](r)
	case "checked":
		e.Checked, ok = count[int64](r)
	case "opened":
		e.Opened, ok = count[int64](r)
	case "total":
		e.Total, ok = count[int64](r)
	case "took_ns":
		e.Took, ok = count[time.Duration](r)
	case "drill":
		e.Drill, ok = word[string](r)
	case "judged":
		e.Judged, ok = true, r.isTrue()
	case "full":
		e.Full, ok = true, r.isTrue()
	case "unit":
		e.Unit, ok = word[string](r)
	case "invocation":
		e.Invocation, ok = word[string](r)
	case "untouched":
		e.Untouched, ok = r.time()
	case "person":
		e.Person, ok = word[string](r)
	case "reason":
		e.Reason, ok = word[string](r)
	case "host":
		e.Host, ok = word[string](r)
	case "machine":
		e.Machine, ok = word[string](r)
	case "version":
		e.Version, ok = word[string](r)
	case "config":
		e.Config, ok = word[string](r)
	case "tops":
		e.Tops, ok = list(r, word[string])
	case "untried":
		e.Untried, ok = list(r, count[int])
	case "daemon_stopped":
		e.Stopped, ok = list(r, word[string])
	case "rotation":
		ok = e.Rotation == nil // encoding/json would add to it
		if ok {
			e.Rotation, ok = r.rotation()
		}
	case "broken":
		e.Broken, ok = count[int](r)
	case "prev":
		e.Prev, ok = r.text()
	}
	return ok
}

// next takes one byte, if it comes next.
func (r *reader) next(b byte) bool {
	if len(r.rest) == 0 || r.rest[0] != b {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

// text takes a text of printable ASCII, which means itself.
func (r *reader) text() (string, bool) {
	if !r.next('"') {
		return "", false
	}
	rest := r.rest
	for i := range len(rest) {
		switch b := rest[i]; {
		case b == '"':
			r.rest = rest[i+1:]
			return rest[:i], true
		case b < ' ' || b > '~' || b == '\\':
			return "", false
		}
	}
	return "", false
}

func word[T ~string](r *reader) (T, bool) {
	text, ok := r.text()
	return T(text), ok
}

// count takes a whole number of at most 18 digits, without a sign.
func count[T ~int | ~int64 | ~uint64](r *reader) (T, bool) {
	var n T
	i := 0
	for ; i < len(r.rest) && '0' <= r.rest[i] && r.rest[i] <= '9'; i++ {
		n = 10*n + T(r.rest[i]-'0')
	}
	if i == 0 || i > 18 || i > 1 && r.rest[0] == '0' {
		return 0, false
	}
	r.rest = r.rest[i:]
	return n, true
}

func (r *reader) time() (t time.Time, ok bool) {
	text, ok := r.text()
	return t, ok && t.UnmarshalText([]byte(text)) == nil
}

// list takes a list of at least one.
func list[T any](r *reader, one func(*reader) (T, bool)) (all []T, ok bool) {
	for open := byte('['); r.next(open); open = ',' {
		v, ok := one(r)
		if !ok {
			return nil, false
		}
		if all = append(all, v); r.next(']') {
			return all, true
		}
	}
	return nil, false
}

func (r *reader) rotation() (*Rotation, bool) {
	var rot Rotation
	for open := byte('{'); r.next(open); open = ',' {
		name, ok := r.text()
		if !ok || !r.next(':') {
			return nil, false
		}
		switch name {
		case "old":
			rot.Old, ok = word[key.Fingerprint](r)
		case "new":
			rot.New, ok = word[key.Fingerprint](r)
		case "commit_begun":
			rot.CommitBegun, ok = true, r.isTrue()
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
		if r.next('}') {
			return &rot, true
		}
	}
	return nil, false
}

func (r *reader) isTrue() (ok bool) {
	r.rest, ok = strings.CutPrefix(r.rest, "true")
	return ok
}
