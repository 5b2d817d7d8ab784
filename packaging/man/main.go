// Man writes keyguard's manual pages into a directory: keyguard(8) and one for each of
// its commands from what `keyguard describe` prints, which it reads on standard input,
// keyguard.toml(5) from the comments of the configuration's fields, and
// keyguard-events(7) from the events and what the journal's catalog says of each.
//
//	keyguard describe | go run ./packaging/man -out dist/man
//
// Their date is SOURCE_DATE_EPOCH, so that the same sources make the same pages.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

func main() {
	out := flag.String("out", "", "the `directory` for the pages")
	var from sources
	flag.StringVar(&from.config, "config", "agent/config/config.go", "the `file` with the configuration's fields")
	flag.StringVar(&from.events, "events", "hooks/events.go", "the `file` with the events")
	flag.StringVar(&from.catalog, "catalog", "units/catalog/keyguard.catalog", "the journal's catalog, a `file`")
	flag.Parse()
	if err := write(os.Stdin, *out, from); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

// sources are the files that pages are made of.
type sources struct{ config, events, catalog string }

func write(description io.Reader, out string, from sources) error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	date := time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	var p program
	if err := json.NewDecoder(description).Decode(&p); err != nil {
		return fmt.Errorf("cannot read the description of the commands: %w", err)
	}
	fields, err := os.ReadFile(from.config)
	if err != nil {
		return err
	}
	events, err := os.ReadFile(from.events)
	if err != nil {
		return err
	}
	catalog, err := os.ReadFile(from.catalog)
	if err != nil {
		return err
	}
	pages, err := commandPages(p, date)
	if err != nil {
		return err
	}
	if pages["keyguard.toml.5"], err = configPage(fields, p.Version, date); err != nil {
		return err
	}
	if pages["keyguard-events.7"], err = eventsPage(events, catalog, p.Version, date); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(out, name), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}
