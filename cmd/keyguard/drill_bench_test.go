package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// drillHost is the configuration of a host whose runtime directory lies in memory. more
// are the escrows, with DIR for the host's directory.
func drillHost(tb testing.TB, db *rowstest.Database, more string) (dir, path string) {
	tb.Helper()
	dir = tb.TempDir()
	memory, err := os.MkdirTemp("/dev/shm", "keyguard-drill-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(memory) })
	path = filepath.Join(dir, "keyguard.toml")
	text := "keyfile = \"DIR/secrets.key\"\nstate_dir = \"DIR/state\"\nrun_dir = \"MEMORY\"\ndaemon.unit = \"\"\ndatabase.url_file = \"DIR/url\"\n" +
		"notify = { hooks_dir = \"\", metrics_file = \"\" }\n" + more
	text = strings.NewReplacer("DIR", dir, "MEMORY", memory).Replace(text)
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "url"), []byte(db.URL()), 0o600),
		os.WriteFile(filepath.Join(dir, "secrets.key"), testKey("a").UnsafeBytes(), 0o400)); err != nil {
		tb.Fatal(err)
	}
	return dir, path
}

// BenchmarkDrill judges fifty copies in five escrows on loopback, as the timer does
// (design: in at most 3 s).
//
//	go test -run - -bench 'Drill$' ./cmd/keyguard
func BenchmarkDrill(b *testing.B) {
	keyguard, _ := build(b, b.TempDir())
	db := rowstest.New(b).Database(b)
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(db.Fill(testKey("a"), 0, 1000, 10, 256))
	gcp, err := secretmanager.Start(secretmanager.Options{Anonymous: true, Unlimited: true})
	must(err)
	defer gcp.Close()
	safe, err := vault.Start(vault.Options{})
	must(err)
	defer safe.Close()
	safe.Mount("secret", 2)
	text := ""
	for _, name := range []string{"gcp1", "gcp2"} {
		text += fmt.Sprintf("[[escrow]]\nname = %q\nkind = \"gcp-secret-manager\"\nproject = \"my-project\"\nsecret = %q\nendpoint = %q\nplaintext = true\n", name, name, gcp.Addr())
	}
	text += fmt.Sprintf("[[escrow]]\nname = \"vault\"\nkind = \"vault-kv\"\naddress = %q\nmount = \"secret\"\npath = \"bench\"\ntoken_file = \"DIR/token\"\n", safe.URL())
	for _, name := range []string{"usb1", "usb2"} {
		text += fmt.Sprintf("[[escrow]]\nname = %q\nkind = \"directory\"\npath = \"DIR/%s\"\nallow_same_disk = true\n", name, name)
	}
	dir, path := drillHost(b, db, text)
	must(os.WriteFile(filepath.Join(dir, "token"), []byte(safe.Token(vault.TokenOptions{Policies: []string{vault.Root}})), 0o600))
	cfg, err := config.Load(path)
	must(err)
	h, err := (&app{}).host(cfg, wiring{})
	must(err)
	ctx := context.Background()
	for i, s := range h.Escrows {
		w := s.Writer
		if cfg.Escrows[i].Kind == config.Directory { // this process is no keyguard that could be its reader
			w, err = kinds.NewDirectory(kinds.DirectoryOptions{Path: cfg.Escrows[i].Path, Keyfile: cfg.Keyfile, AllowSameDisk: true})
			must(err)
		}
		must(w.Init(ctx))
		for range 9 {
			_, err := w.Save(ctx, escrow.Quarantine, key.Generate())
			must(err)
		}
		_, err := w.Save(ctx, escrow.Current, testKey("a"))
		must(err)
	}
	for b.Loop() {
		out, err := exec.Command(keyguard, "drill", "--json", "--config", path).Output()
		must(err)
		var d drillDoc
		must(json.Unmarshal(out, &d))
		if d.Verdict != agent.DrillPassed || len(d.Copies) != 50 {
			b.Fatalf("%d copies: %s", len(d.Copies), out)
		}
	}
}

// BenchmarkDrillFull opens every row. "RSS-MB" is the most that the process ever held:
// it does not grow with the table.
//
//	go test -run - -bench DrillFull -benchtime 1x ./cmd/keyguard
func BenchmarkDrillFull(b *testing.B) {
	keyguard, _ := build(b, b.TempDir())
	cluster := rowstest.New(b)
	if err := cluster.Roomy(); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n, "-rows"), func(b *testing.B) {
			db := cluster.Database(b)
			if err := db.Fill(testKey("a"), 0, n, 1000, 256); err != nil {
				b.Fatal(err)
			}
			_, path := drillHost(b, db, "[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"DIR/usb\"\nallow_same_disk = true\n")
			if text, err := exec.Command(keyguard, "init", "--yes", "--config", path).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, text)
			}
			var most int64
			took := time.Duration(0)
			for b.Loop() {
				start := time.Now()
				c := exec.Command(keyguard, "drill", "--full", "--config", path)
				if text, err := c.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, text)
				}
				took += time.Since(start)
				most = max(most, c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) // KiB, getrusage(2)
			}
			b.ReportMetric(float64(most)/1024, "RSS-MB")
			b.ReportMetric(float64(b.N)*float64(n)/took.Seconds(), "rows/s")
		})
	}
}
