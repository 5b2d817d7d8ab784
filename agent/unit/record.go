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

// Record writes one entry with fields of its own to the journal, as its native protocol
// does (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). It does not wait for the journal.
func Record(message string, urgent bool, fields map[string]string) error {
	priority := journal.PriInfo
	if urgent {
		priority = journal.PriErr
	}
	if err := journal.Send(message, priority, fields); err != nil {
		return fmt.Errorf("cannot write to the journal: %w", err)
	}
	return nil
}
