package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Append adds an escrow to the end of a configuration, below a comment if there is one,
// and leaves all else as it is.
func Append(data []byte, comment string, e Escrow) []byte {
	b := new(strings.Builder)
	b.Write(data)
	if len(data) > 0 && data[len(data)-1] != '\n' {
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	for line := range strings.Lines(comment) {
		fmt.Fprintf(b, "# %s\n", strings.TrimRight(line, "\n"))
	}
	b.WriteString("[[escrow]]\n")
	writeTable(b, reflect.ValueOf(&e).Elem())
	return []byte(b.String())
}

// NewEscrow makes an escrow of its settings as a person types them: "name=value", without
// quotes. A list is words with spaces between them. What they mean is checked where the
// file is read.
func NewEscrow(settings ...string) (Escrow, error) {
	e := defaultEscrow()
	v := reflect.ValueOf(&e).Elem()
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return e, fmt.Errorf("%q is no name=value", s)
		}
		i := slices.IndexFunc(reflect.VisibleFields(v.Type()), func(f reflect.StructField) bool { return name != "" && keyOf(f) == name })
		if i < 0 {
			return e, fmt.Errorf("an escrow has no setting %q%s", name, nearest(name, keysOf(v.Type())))
		}
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = value
		case *[]string:
			*f = strings.Fields(value)
		case *int:
			var err error
			if *f, err = strconv.Atoi(value); err != nil {
				return e, fmt.Errorf("%s: %q is no number", name, value)
			}
		case *bool:
			var err error
			if *f, err = strconv.ParseBool(value); err != nil {
				return e, fmt.Errorf("%s: %q is neither true nor false", name, value)
			}
		}
	}
	return e, nil
}
