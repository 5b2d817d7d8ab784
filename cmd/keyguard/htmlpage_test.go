package main

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/fleet"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/printable/htmltest"
)

// filling says what a page is made of.
type filling struct {
	text         func(place string) string
	outer, inner int // how many are in a list, and in one that is in another
	yes          bool
}

// fill gives every string below v the text of its place, and every list as many as there are to be.
func (f filling) fill(t *testing.T, v reflect.Value, place string) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(f.text(place))
	case reflect.Bool:
		v.SetBool(f.yes)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(12.5)
	case reflect.Slice:
		n := f.outer
		if v.Type() == reflect.TypeFor[[]drillView]() && n == 0 { // a run is of one at least
			n = 1
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		f.outer = f.inner
		for i := range n {
			f.fill(t, v.Index(i), fmt.Sprintf("%s %d", place, i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() || field.Anonymous {
				f.fill(t, v.Field(i), place+" "+field.Name)
			}
		}
	default:
		if v.Type() != reflect.TypeFor[map[fleet.Is]int]() { // whose words are our own
			t.Fatalf("%s is of type %s, which nobody fills", place, v.Type())
		}
	}
}

// TestPagesEscape: whatever stores, hosts and ledgers say is text in each place of each page, in
// lists of none, of one and of several.
func TestPagesEscape(t *testing.T) {
	for name, page := range map[string]func(t *testing.T, f filling) ([]byte, error){
		"report": func(t *testing.T, f filling) ([]byte, error) {
			var p page
			f.fill(t, reflect.ValueOf(&p).Elem(), "report")
			return p.html()
		},
		"hosts": func(t *testing.T, f filling) ([]byte, error) {
			var p hostsPage
			f.fill(t, reflect.ValueOf(&p).Elem(), "hosts")
			return p.html()
		},
		"fleet": func(t *testing.T, f filling) ([]byte, error) {
			var r fleet.Report
			f.fill(t, reflect.ValueOf(&r).Elem(), "fleet")
			r.Columns = append(r.Columns, f.text("the last column")) // there is always one
			var e fleet.Evidence
			for i := range r.Stores {
				v := fleet.View{}
				v.Name, v.Place = f.text(fmt.Sprintf("store %d", i)), escrow.Place{Where: f.text(fmt.Sprintf("where %d", i)), Domain: f.text(fmt.Sprintf("domain %d", i))}
				e.Stores = append(e.Stores, v)
			}
			return fleetPage(r, e, fleet.Questions{})
		},
	} {
		for n := range 3 * 3 * 2 {
			f := filling{outer: n / 2 % 3, inner: n / 6, yes: n%2 == 1}
			t.Run(fmt.Sprintf("%s, of %d and %d, %v", name, f.outer, f.inner, f.yes), func(t *testing.T) {
				htmltest.Escapes(t, func(text func(string) string) []byte {
					f.text = text
					b, err := page(t, f)
					if err != nil {
						t.Fatal(err)
					}
					return b
				})
				f.text = func(place string) string { return place + "\x1b[2J\u202e\xff" }
				b, err := page(t, f)
				if err != nil || printable.Page(string(b)) != string(b) {
					t.Errorf("it is not printable: %v", err)
				}
			})
		}
	}
}
