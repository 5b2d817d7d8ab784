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

// fill gives every string below v the text of its place, and every list two of what it holds.
func fill(v reflect.Value, place string, text func(place string) string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text(place))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), fmt.Sprintf("%s %d", place, i), text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() || f.Anonymous {
				fill(v.Field(i), place+" "+f.Name, text)
			}
		}
	}
}

// TestPagesEscape: whatever stores, hosts and ledgers say is text in each place of each page.
func TestPagesEscape(t *testing.T) {
	for name, page := range map[string]func(text func(string) string) ([]byte, error){
		"report": func(text func(string) string) ([]byte, error) {
			var p page
			fill(reflect.ValueOf(&p).Elem(), "report", text)
			return p.html()
		},
		"hosts": func(text func(string) string) ([]byte, error) {
			var p hostsPage
			fill(reflect.ValueOf(&p).Elem(), "hosts", text)
			return p.html()
		},
		"fleet": func(text func(string) string) ([]byte, error) {
			var r fleet.Report
			fill(reflect.ValueOf(&r).Elem(), "fleet", text)
			var e fleet.Evidence
			for i := range r.Stores {
				v := fleet.View{}
				v.Name, v.Place = text(fmt.Sprintf("store %d", i)), escrow.Place{Where: text(fmt.Sprintf("where %d", i)), Domain: text(fmt.Sprintf("domain %d", i))}
				e.Stores = append(e.Stores, v)
			}
			return fleetPage(r, e, fleet.Questions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			htmltest.Escapes(t, func(text func(string) string) []byte {
				b, err := page(text)
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
			b, err := page(func(place string) string { return place + "\x1b[2J\u202e\xff" })
			if err != nil || printable.Page(string(b)) != string(b) {
				t.Errorf("it is not printable: %v", err)
			}
		})
	}
}
