package unit

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/journal"
)

// StderrIsJournal tells whether what this program prints gets into the journal anyway:
// systemd started it, and nobody has redirected it ($JOURNAL_STREAM of systemd.exec(5)).
func StderrIsJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}

// Priority is how much an entry of the journal matters, syslog(3).
type Priority journal.Priority

const (
	Informational = Priority(journal.PriInfo)
	Urgent        = Priority(journal.PriErr)
)

// Record writes one entry with fields of its own to the journal, as its native protocol
// does (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). It does not wait for the journal.
func Record(message string, p Priority, fields map[string]string) error {
	if err := journal.Send(message, journal.Priority(p), fields); err != nil {
		return fmt.Errorf("cannot write to the journal: %w", err)
	}
	return nil
}
