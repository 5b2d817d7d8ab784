package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// InForce is the configuration as a file that Parse reads back as the same: every
// key that has a value, the defaults included.
func (c *Config) InForce() []byte {
	var b strings.Builder
	writeTable(&b, reflect.ValueOf(c).Elem())
	return []byte(b.String())
}

func writeTable(b *strings.Builder, v reflect.Value) {
	for i := range v.NumField() {
		name := keyOf(v.Type().Field(i))
		if name == "" {
			continue
		}
		switch f := v.Field(i).Interface().(type) {
		case string:
			if f != "" || name == "unit" || name == "hooks_dir" || name == "metrics_file" { // "" is no default there
				fmt.Fprintf(b, "%s = %s\n", name, quote(f))
			}
		case bool:
			if f || name == "required" || name == "readable" || name == "heal" {
				fmt.Fprintf(b, "%s = %t\n", name, f)
			}
		case int:
			if f != 0 || name == "copies" {
				fmt.Fprintf(b, "%s = %d\n", name, f)
			}
		case time.Duration:
			fmt.Fprintf(b, "%s = %q\n", name, duration(f))
		case []string:
			if len(f) == 0 {
				continue
			}
			list := make([]string, len(f))
			for i, s := range f {
				list[i] = quote(s)
			}
			fmt.Fprintf(b, "%s = [%s]\n", name, strings.Join(list, ", "))
		case []Escrow:
			for i := range f {
				fmt.Fprintf(b, "\n[[%s]]\n", name)
				writeTable(b, reflect.ValueOf(&f[i]).Elem())
			}
		default:
			fmt.Fprintf(b, "\n[%s]\n", name)
			writeTable(b, v.Field(i))
		}
	}
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case !unicode.IsGraphic(r):
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
