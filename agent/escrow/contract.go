// Package escrow keeps copies of keys in places off this host.
//
// A place is reached through two small interfaces: a Reader lists and fetches, a
// Writer makes the place and saves. A drill is given a Reader and so cannot write.
// That contract, and what can go wrong by it, is in this file; beside it are parts.go (keys that
// several stores share), examination.go (what the doctor asks a store), fleet.go (a store seen over
// many hosts), oneplace.go (directories that are one), and, of escrows that are not read at all, unread.go
// and misconfigured.go. The stores themselves are in the package kinds, which only cmd links: whoever
// decides, and a start that has nothing to do, carry none of their clients. Every kind passes the
// conformance suite in escrowtest.
//
// Making an escrow opens no socket and no file: that is on the healthy path (law 7).
// Every call takes a context, and has a deadline of its own besides. Nothing is
// retried in here: whoever calls backs off (law 9).
package escrow

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Shelf says where in an escrow a copy stands.
type Shelf string

// Destroyed is the Copy.Unreadable of a copy whose bytes nothing brings back.
const Destroyed = "destroyed"

const (
	Current    Shelf = "current"    // the newest copy here is what the runbook's `latest` returns
	Quarantine Shelf = "quarantine" // keys that have not opened a row (law 4), or no longer do
)

// Shelves are both of them, in the order in which candidates are tried.
var Shelves = [...]Shelf{Current, Quarantine}

// Copy is one stored key. It is what the store says and so hearsay (law 1): only
// Fetch and a proof on the rows tell what it is.
type Copy struct {
	Escrow string
	// ID is unique within the escrow over both shelves, and no Save gives it to another
	// copy: "current/3", "quarantine/20260102T030405Z-0123456789abcdef.key". A person may
	// write other bytes under it: what was read there before is hearsay. It is one
	// printable line whatever the store calls the copy (law 10).
	ID    string
	Shelf Shelf
	// Fingerprint is the store's claim, "" where it makes none.
	Fingerprint key.Fingerprint
	// Part is which part of that key it is by the store's claim, the zero PartOf where it
	// claims none.
	Part PartOf
	// Created is the store's time, to the precision it keeps.
	Created time.Time
	// Unreadable is "", or why Fetch would fail: "disabled", Destroyed, "sealed to age1…".
	Unreadable string
	// NoFile is set for what is no file where copies are files: a link, a pipe, a directory.
	// Whatever its name says, it holds no key.
	NoFile bool
	// Ends is when the store will delete the copy by itself; zero for never, or not told.
	Ends time.Time
	// Sealed is set where the listing shows that the copy is encrypted to somebody else.
	// Stores whose listing shows no contents leave that to Fetch (ErrSealed).
	Sealed bool
	// Beside is set for a whole key, or what is none, on a store that keeps keys in parts: a
	// copy, and never the newest current one.
	Beside bool
	// Tops are, of a copy that several stores share, those that have it newest on their
	// current shelf; of what Save returns, what each of them stored or had. Under are those
	// that have it there with another one above it.
	Tops, Under []Top
}

// Top is a member's own copy: what stands newest on its current shelf, or did.
type Top struct {
	Member string // its name in the configuration
	Number int    // of its parts: its name for ever
	ID     string // of the copy, as the member has it
	// Shut: it cannot be read, though it is not sealed: the store has it disabled, or it is damaged.
	// A save cannot compare with it, and so stores another copy above it.
	Shut bool
}

// Worthless tells that a copy is positively no key, unlike one that is disabled.
func (c Copy) Worthless() bool { return c.NoFile || c.Unreadable == Destroyed }

// maxTop is how long an id may be that String shows, in bytes: others choose it.
const maxTop = 128

// String names it whatever the member is called: "2 current/3".
func (t Top) String() string {
	if len(t.ID) > maxTop {
		return fmt.Sprintf("%d sha256:%x", t.Number, sha256.Sum256([]byte(t.ID)))
	}
	return fmt.Sprintf("%d %s", t.Number, t.ID)
}

// NumberOf is that of the member whose copy String gave a name to, 0 for no such name.
func NumberOf(top string) int {
	number, _, _ := strings.Cut(top, " ")
	n, _ := strconv.Atoi(number)
	return n
}

// Ending tells that a copy is in the last third of the life that its store gives it.
func (c Copy) Ending(now time.Time) bool {
	return !c.Ends.IsZero() && c.Ends.Sub(now) < c.Ends.Sub(c.Created)/3
}

// Place tells people where an escrow is.
type Place struct {
	Kind string // the configuration's word: "gcp-secret-manager", "directory"
	// Where names the very place: "projects/p/secrets/s", "/mnt/keys".
	Where string
	// Domain is what is lost together: "Google Cloud project p", "the file system at /mnt/keys".
	// Of a directory Examination.Domains knows more.
	Domain string
}

// Reader reads an escrow. It is safe for use by several goroutines.
type Reader interface {
	// Name is the escrow's name in the configuration.
	Name() string
	Place() Place
	// List returns every copy on both shelves, current before quarantine, newest first
	// within a shelf. A nil error means that the place exists and that both shelves were
	// listed whole, so that no copies means no copies (law 6); with an error the copies
	// are nil. A copy that cannot be read is a copy.
	List(ctx context.Context) ([]Copy, error)
	// Fetch reads one copy; of c only ID is used. The caller wipes the key, which a
	// MisnamedError has beside it, too; with any other error there is none. The encoding is
	// Raw for everything that keyguard itself has saved.
	Fetch(ctx context.Context, c Copy) (key.Key, key.Encoding, error)
}

// Latest is a Reader whose store says without a listing which copy is the newest current
// one.
type Latest interface {
	// FetchLatest reads that copy, in one call of the store where that is enough. Of the copy ID and
	// Shelf are set, and no more is to be relied on. It is hearsay (law 1): another may be newer by now, or by what List says. None of
	// its errors says that there is no copy (law 6): that only List can tell.
	FetchLatest(ctx context.Context) (Copy, key.Key, key.Encoding, error)
}

// Rester is a Writer of which a part may be in trouble while the rest is not. It leaves that
// part alone for a while by itself: a Save may be tried at any time.
type Rester interface {
	// Rests is how long it is until a Save asks the first of what failed again, 0 where
	// nothing did.
	Rests() time.Duration
}

// Shared is a Reader whose copies are kept in parts, by several stores.
type Shared interface {
	Reader
	// Reread has those stores that are wanted read their part of a copy that List has just shown.
	Reread(ctx context.Context, c Copy, wanted func(Place) bool)
	// Lacks says which of them cannot give their part of a copy that List has just shown,
	// nil for none.
	Lacks(c Copy) *PartsError
	// Cutting says of a copy that List has just shown how many parts rebuild it, and on which of the
	// Members these are kept, or are to be: on all of them, unless it was cut for another need than
	// is configured, and nobody gets one any more.
	Cutting(c Copy) (need int, on []bool)
	// Refuses says, by the last listing, why a Save of a key is refused as the configuration
	// stands, whatever the stores do: ErrPartMoved, ErrRecut, nil for not at all.
	Refuses(of key.Fingerprint) error
	// Unheard says why some of them did not answer to the last listing, nil where all did: each
	// may hold a whole key.
	Unheard() error
	// Rebuild reads the parts of a copy from all of them, says what became of each, and
	// returns the key. Parts are nil for a copy that is not kept so.
	Rebuild(ctx context.Context, c Copy) (key.Key, []PartOutcome, error)
	// Members are the stores, and Need how many of them rebuild a key.
	Members() []Member
	Need() int
}

// Writer writes to an escrow. It deletes and changes nothing that it did not make.
type Writer interface {
	// Init makes the place where it is missing. It may be called again at any time.
	Init(ctx context.Context) error
	// Save compares k with the newest copy on the shelf (on the quarantine shelf: with
	// the copies there), adds it only if it differs, and reads it back.
	//
	// A nil error: the copy returned is durably stored, equal bytes were read back, and on
	// the current shelf it is the newest. ErrUnverified: stored, and the copy returned
	// names it, but this identity may not read; whoever tries again does so with Fetch of
	// that copy, since a Save that cannot compare adds another. Any other error: k may or
	// may not be stored, and the same Save may be called again: what was stored after all
	// is found by the comparison. Two saves of one key at the same time may store it twice.
	Save(ctx context.Context, s Shelf, k key.Key) (Copy, error)
}

// Renewer is an escrow whose store may delete copies by itself, after a time that its own
// administrators set.
type Renewer interface {
	// Renew stores again, beside it, each copy that is Ending, but for the newest current
	// one, which is Save's. The error says that some cannot be renewed.
	Renew(ctx context.Context) error
}

// Rehearser is a Writer that can find out, without a key, whether both shelves would take
// another one.
type Rehearser interface {
	// Rehearse says why a Save would fail, as far as that shows; where nothing shows, nil.
	Rehearse(ctx context.Context) error
}

// Escrow is a place opened for reading and writing. Close ends its connections; an
// escrow may be used after that, and then connects again.
type Escrow interface {
	Reader
	Writer
	io.Closer
}

// What can go wrong, for errors.Is. An error names the escrow's place and the copy, and
// carries what the store said. Law 6: these are different answers, and none of them
// means "no copies".
var (
	// ErrNoPlace: nothing is initialised or mounted there, or another host's name is meant.
	ErrNoPlace = errors.New("no such place")
	// ErrInTheWay: something else stands in the place of a directory, or of what keyguard keeps in
	// it. It is an ErrNoPlace too.
	ErrInTheWay = fmt.Errorf("%w: something else is in the way", ErrNoPlace)
	// ErrNoEngine: Vault has nothing mounted under that name. It is an ErrNoPlace too.
	ErrNoEngine = fmt.Errorf("%w: nothing is mounted there", ErrNoPlace)
	// ErrAmbiguous: two devices have the name by which the place is to be found.
	ErrAmbiguous = errors.New("more than one such place")
	// ErrDenied: the store knows who asks, and refuses.
	ErrDenied = errors.New("permission denied")
	// ErrHeld: a file system refuses, whoever asks: a directory that is immutable or append-only,
	// another machine's that does not trust our root, a sandbox. It is an ErrDenied too.
	ErrHeld = fmt.Errorf("%w by the file system", ErrDenied)
	// ErrVaultToken and ErrVaultLogin are ErrUnauthenticated, by what this host shows to Vault.
	ErrVaultToken = fmt.Errorf("%w by a token", ErrUnauthenticated)
	ErrVaultLogin = fmt.Errorf("%w by AppRole", ErrUnauthenticated)
	// ErrUnauthenticated: no credentials, or the store does not accept them.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrClock: credentials were refused, and this host's clock is why (pitfall: a wrong
	// clock looks like bad credentials). It is an ErrUnauthenticated too.
	ErrClock = fmt.Errorf("%w: this host's clock is wrong", ErrUnauthenticated)
	// ErrUnreachable: the store did not answer, the connection broke, or the store failed.
	ErrUnreachable = errors.New("unreachable")
	// ErrNeverLeft: no name, no route: as on a cold boot, nothing has left this host, and
	// the store was not asked. It is an ErrUnreachable too.
	ErrNeverLeft = fmt.Errorf("%w: no network or no name service yet", ErrUnreachable)
	// ErrNoProc: a directory is looked at by way of proc(5), which is not there. It is an
	// ErrUnreachable too.
	ErrNoProc = fmt.Errorf("%w: /proc is not mounted", ErrUnreachable)
	// ErrUntrusted: what answers shows no certificate that is trusted. It is an
	// ErrUnreachable too.
	ErrUntrusted = fmt.Errorf("%w: its certificate is not trusted", ErrUnreachable)
	// ErrNotStore: there is an answer, and it is none of this kind of store: a proxy's page, a
	// log-in, another server. What it would say of copies is not known (law 6). It is an
	// ErrUnreachable too.
	ErrNotStore = fmt.Errorf("%w: what answers there is not the store", ErrUnreachable)
	// ErrStoreSealed: Vault runs, and is locked until people unseal it. It is an
	// ErrUnreachable too.
	ErrStoreSealed = fmt.Errorf("%w: the store itself is sealed", ErrUnreachable)
	// ErrNotServing: the store answers, and says that it cannot do its work: a standby without
	// an active server, a namespace that is locked, a log that it must write. It is an
	// ErrUnreachable too.
	ErrNotServing = fmt.Errorf("%w: the store itself is in trouble", ErrUnreachable)
	// ErrTimeout: no answer in time. The store may have done what was asked.
	ErrTimeout = errors.New("no answer in time")
	// ErrRateLimited: the store wants fewer requests.
	ErrRateLimited = errors.New("too many requests")
	// ErrProgram: the program of a command escrow is not there, or cannot be run.
	ErrProgram = errors.New("the program cannot be run")
	// ErrGnuPG: GnuPG does not encrypt to the key of a password store, which is expired or
	// not trusted, or which it does not have. It is an ErrRefused too.
	ErrGnuPG = fmt.Errorf("%w: GnuPG does not encrypt to the key of the store", ErrRefused)
	// ErrRefused: the store does not accept the request as it stands; the same one will
	// fail again.
	ErrRefused = errors.New("refused by the store")
	// ErrLocation: an organisation's policy allows no copies in the places that were asked
	// for. It is an ErrRefused too.
	ErrLocation = fmt.Errorf("%w: the organisation's policy allows no copies there", ErrRefused)
	// ErrEndOfTime: the newest copy of a shelf says that it is from the end of time, and no name can
	// be given to one that is to be newer. It is an ErrRefused too.
	ErrEndOfTime = fmt.Errorf("%w: a copy there claims to be from the end of time", ErrRefused)
	// ErrUnreadable: the copy is there, disabled or destroyed.
	ErrUnreadable = errors.New("the copy cannot be read")
	// ErrGone: no copy has this id.
	ErrGone = errors.New("no such copy")
	// ErrSealed: the copy is encrypted with age, and this host has no identity for it.
	ErrSealed = errors.New("sealed")
	// ErrCorrupt: the bytes are not those that were stored: checksum, or broken sealing.
	ErrCorrupt = errors.New("damaged")
	// ErrNotKey: the bytes are sound and not a key in any encoding known. The error is a
	// key.ErrMangled too where a UTF-8 conversion destroyed them.
	ErrNotKey = key.ErrNotKey
	// ErrSameDisk: the directory lies on the disk of the keyfile.
	ErrSameDisk = errors.New("on the same disk as the keyfile")
	// ErrReadOnly: the place cannot be written to.
	ErrReadOnly = errors.New("read-only")
	// ErrExposed: what is written there can be read by every user of this host.
	ErrExposed = errors.New("others can read what is stored there")
	// ErrFull: the place has no room left.
	ErrFull = errors.New("no space left")
	// ErrUnverified: stored; reading it back is denied.
	ErrUnverified = errors.New("stored, but reading it back is denied")
)

// What only a Split says.
var (
	// ErrPartly: enough members have their part, and some do not; the copy returned names
	// what is there. The same Save again brings those that are missing.
	ErrPartly = errors.New("saved, but not on every member")
	// ErrPerhaps: where enough members answer there is no part of any key, and one that does
	// not answer may have some. It is not "no copies", and no reason not to save.
	ErrPerhaps = errors.New("no part is where members answer, and one that does not may have some")
	// ErrPartMoved: a store keeps another part than the configuration says. With a second
	// part it would tell as much as two stores.
	ErrPartMoved = errors.New("another part is kept there")
	// ErrRecut: the key is there in parts of which another number is needed.
	ErrRecut = errors.New("the same key is there, cut for another need")
)

// SealedError is the ErrSealed that says what is known of a sealed copy.
type SealedError struct {
	// Fingerprint is what the sealed copy says of itself, "" where it says nothing.
	Fingerprint key.Fingerprint
	// To are the recipients that this escrow is configured to seal to. Whether this very
	// copy is sealed to them the age format does not tell.
	To []string
	// Unusable is why identities that this host is given cannot be used: whether they would
	// open it nobody can tell. nil where all of them were tried.
	Unusable error
}

func (e *SealedError) Error() string {
	s := "sealed, and no identity of this host opens it"
	if e.Fingerprint != "" {
		s = "key " + string(e.Fingerprint) + " " + s
	}
	if e.Unusable != nil {
		s += ": " + e.Unusable.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrSealed) true.
func (e *SealedError) Is(target error) bool { return target == ErrSealed }

// MisnamedError is the ErrCorrupt of a copy that is a key, and not the one that it is called:
// raw bytes have no other checksum than their name. Rows alone can tell which of the two is
// wrong (law 1), and so Fetch returns the key beside it.
type MisnamedError struct {
	Says, Holds key.Fingerprint
}

func (e *MisnamedError) Error() string {
	return fmt.Sprintf("%v: it holds key %s, and is called key %s", ErrCorrupt, e.Holds, e.Says)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *MisnamedError) Is(target error) bool { return target == ErrCorrupt }
