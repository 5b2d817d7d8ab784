package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
)

// TestDoctorFiles: every file that an escrow or the database can name is looked at.
func TestDoctorFiles(t *testing.T) {
	c := config.Default()
	c.Escrows = []config.Escrow{{Name: "e"}}
	tables := map[string]reflect.Value{"e": reflect.ValueOf(&c.Escrows[0]).Elem(), "database": reflect.ValueOf(&c.Database).Elem()}
	named := map[string]string{}
	for table, v := range tables {
		for i := range v.NumField() {
			if key := v.Type().Field(i).Tag.Get("toml"); strings.HasSuffix(key, "_file") {
				v.Field(i).SetString("/" + table + "/" + key)
				named[key] = table
			}
		}
	}
	if len(named) < 8 {
		t.Errorf("only %v", named)
	}
	files := (&app{}).doctorOptions(c).Files
	for key, table := range named {
		if !slices.ContainsFunc(files, func(w agent.ModeWanted) bool {
			return w.Path == "/"+table+"/"+key && w.Table == table && w.Key == key && w.Mode&^0o644 == 0
		}) {
			t.Errorf("%s of %s is not looked at", key, table)
		}
	}
}
