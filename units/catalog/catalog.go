// Package catalog has what keyguard's entries in the journal mean, as the journal itself
// shows it (journalctl -x, journald.catalog(7)), for the program to show as well.
package catalog

import (
	_ "embed"
	"regexp"
	"strings"
)

//go:embed keyguard.catalog
var text string

// Explain is the subject of a message and what it means, with names in the place of what
// only an entry knows: <fingerprint>. ok is false where the catalog has no such message.
func Explain(id string) (subject, meaning string, ok bool) {
	_, entry, ok := strings.Cut(text, "\n-- "+id+"\n")
	if id == "" || !ok {
		return "", "", false
	}
	entry, _, _ = strings.Cut(entry, "\n-- ")
	head, body, _ := strings.Cut(entry, "\n\n")
	for line := range strings.Lines(head) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name == "Subject" {
			subject = value
		}
	}
	// One of the entry's fields, which the journal puts in: @KEYGUARD_FINGERPRINT@.
	field := regexp.MustCompile(`@(?:KEYGUARD_)?([A-Z_]+)@`)
	named := func(s string) string {
		return field.ReplaceAllStringFunc(s, func(f string) string {
			return "<" + strings.ToLower(field.FindStringSubmatch(f)[1]) + ">"
		})
	}
	return named(subject), named(strings.TrimSpace(body)), true
}
