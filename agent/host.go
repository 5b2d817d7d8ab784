package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// Host is what every operation works on. Making one touches nothing; cmd/keyguard
// wires it from the configuration.
type Host struct {
	Keyfile  keyfile.File
	Ledger   *ledger.Ledger
	StateDir string   // the directory of the ledger and the locks
	Besides  []string // directories of ours besides it: of what runs, and of those who tell people
	Machine  string   // tells this machine from a clone of it; "" does not
	Escrows  []Escrow // in the order of the configuration
	// OpenRows finds the database and opens it, within the deadlines of the options.
	// Its error says in a sentence why the rows cannot be asked.
	OpenRows func(context.Context, rows.Options) (Rows, error)
	Daemon   Daemon
	// Left is the file in which prestart records what it left for the daemon's start. It is
	// gone with the boot. "": none.
	Left string
	// NextDrill says when the weekly drill runs. nil: there is no systemd.
	NextDrill func(context.Context) (unit.DrillState, error)
	// Watcher says how the watcher runs. nil: there is no systemd.
	Watcher func(context.Context) (unit.WatcherState, error)
	Now     func() time.Time
}

// Rows is the table of ciphertext as the operations ask and change it: a *rows.Table, and
// in the simulated worlds one that tells when it is asked what, and dies halfway.
type Rows interface {
	Prove(ctx context.Context, keys ...key.Key) rows.Answer
	Rewrite(ctx context.Context, o rows.RewriteOptions) (rows.RewriteResult, error)
	MayRewrite(ctx context.Context) error
	OtherClients(ctx context.Context) ([]rows.Client, error)
	Close()
}

// Escrow is a configured place for copies. Reading and writing are apart, so that
// what only looks is given nothing to write with.
type Escrow struct {
	escrow.Reader
	Writer   escrow.Writer
	Required bool
	// Sealed: what is saved there is encrypted to somebody, who need not be here.
	Sealed bool
	// AddOnly: this host may add copies there, and reads none (escrow.Unread). What is
	// there, only the ledger says.
	AddOnly bool
}

// ErrNotAgain is what a Reader answers for a copy that it has listed from memory, when it is
// too early to ask the store again (law 9).
var ErrNotAgain = errors.New("not asked again yet")

// Rememberer is a Reader that may answer a List from memory, and says after it whether
// it did, and when a copy was asked for last, as a time since the boot: 0 is never. Changed tells it
// that this process has stored something there: the next List is to ask the store. Again tells it that
// this process looks at everything anew: so is the next List where the last one has asked the store.
type Rememberer interface {
	Remembered() bool
	FetchedAt(id string) time.Duration
	Changed()
	Again()
}

// Trouble is something that went wrong beside the point: the operation was done all
// the same, and a person should read it (law 9).
type Trouble struct {
	What string // "cannot write the ledger"
	Err  error
}

func (t Trouble) Error() string { return t.What + ": " + t.Err.Error() }
func (t Trouble) Unwrap() error { return t.Err }

// Append appends to the ledger. It returns ErrBusy where another process holds that, and does
// not let go of it.
func (h *Host) Append(entries ...ledger.Entry) error { return busy(h.Ledger.Append(entries...)) }

// hanging are the errors of the directories in Besides that do not answer.
func (h *Host) hanging() []error {
	errs := make([]error, len(h.Besides))
	crew.Each(len(errs), func(i int) {
		if _, err := crew.ReadDir(h.Besides[i]); errors.Is(err, crew.ErrHangs) {
			errs[i] = err
		}
	})
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// eachEscrow calls do for all escrows at once, with their place in the configuration,
// and returns when all are done.
func eachEscrow(h *Host, do func(i int, s Escrow)) {
	crew.Each(len(h.Escrows), func(i int) { do(i, h.Escrows[i]) })
}
