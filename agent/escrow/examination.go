package escrow

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Examiner is an escrow that can tell more of itself than what it holds: what it is lost
// together with, and what this host may do there.
type Examiner interface {
	Examine(ctx context.Context) (Examination, error)
}

// Examination is what Examine found.
type Examination struct {
	// Project is the Google Cloud project that the copies are lost with, "" for none.
	Project string
	// Account is the account of AWS that they are lost with, "" for none.
	Account string
	// Local: the store is reached over loopback, so it is this host's, or a tunnel's.
	Local bool
	// Disks are what a directory's file system is made of: "sda", "server:/export".
	Disks []string
	// SameDisk: one of them holds the keyfile too.
	SameDisk bool
	// Remote: the file system is another machine's.
	Remote bool
	// Unplaced: which machine the copies are on is not known.
	Unplaced bool
	// Memory: the file system is gone at the next boot.
	Memory bool
	// Readable is which copies others on this host can read that are not sealed, a clause
	// each; Exposed what else they can do with them.
	Readable, Exposed []string
	// Asked: the store said what this host's identity may do there.
	Asked bool
	// Lacks are the permissions that keyguard needs and that are not granted.
	Lacks []string
	// Destroys are those granted by which copies could be destroyed, or the right to do so
	// be had. keyguard needs none of them.
	Destroys []string
	// Deletes is when the store will delete the next of the copies by itself; zero for not.
	Deletes time.Time
	// Trouble is what a person has to see to before it goes wrong, nil for nothing.
	Trouble *TroubleError
	// Clock is how far the store's clock is ahead of this host's, to the second; nil where
	// it did not tell.
	Clock *time.Duration
}

// Trouble is which one a TroubleError is. What to type for each is in
// cmd/keyguard/doctorremedies.go.
type Trouble string

// The troubles.
const (
	TroubleDeleted   Trouble = "deleted"     // the secret of AWS is to be deleted
	TroubleReplica   Trouble = "replica"     // it is one of another region's
	TroubleLabels    Trouble = "labels"      // those of its versions are nearly used up
	TroubleSameDisk  Trouble = "same disk"   // the password store lies on the keyfile's own disk
	TroubleMemory    Trouble = "memory"      // the directory lies in memory
	TroubleReadOnly  Trouble = "read-only"   // the directory's file system is
	TroubleImmutable Trouble = "immutable"   // the directory is
	TroubleEndOfTime Trouble = "end of time" // no name comes after that of its last copy
)

// TroubleError is what a person has to see to before it goes wrong.
type TroubleError struct {
	Trouble Trouble
	Text    string
	At      string // the directory, or the secret
}

func (e *TroubleError) Error() string { return e.Text }

// Domains are what an escrow is lost with, and with whom: each of them takes it along. Where
// the disks of a directory are not known it is where it stands.
func (e Examination) Domains(p Place) []string {
	switch {
	case e.Account != "": // whoever asks
		return []string{"AWS account " + e.Account}
	case len(e.Disks) == 0:
		return []string{p.Domain}
	}
	var all []string
	for _, name := range e.Disks {
		all = append(all, diskDomain(name))
	}
	return all
}

// Credentialed is an escrow whose credentials may end.
type Credentialed interface {
	// Credential tells of what was used last. It asks nobody.
	Credential(ctx context.Context) Credential
}

// Credential is what this host shows to a store, as far as its end is known.
type Credential struct {
	What  string        // "the token in /etc/…"
	Until time.Time     // zero: for ever, or not known
	Life  time.Duration // the longest that the store has given it
	// Renewable: keyguard renews it in time, as long as it runs.
	Renewable bool
}

// Ends says when it ends and why somebody has to see to it, "" while nobody has to: it is
// renewed by itself, or not yet in the last third of its life.
func (c Credential) Ends(now time.Time) string {
	if c.Until.IsZero() || c.Renewable || c.Until.Sub(now) >= c.Life/3 {
		return ""
	}
	return fmt.Sprintf("%s ends %s and cannot be renewed", c.What, printable.Time(c.Until))
}

// diskDomain is what people call one of the names of under.
func diskDomain(name string) string {
	if strings.ContainsAny(name, " :/") {
		return name
	}
	return "the disk " + name
}
