// Package rows asks the judge (law 1): the ciphertext in Postgres, table secrets of
// the containarium daemon. A key is right if it opens the rows, and nothing else says
// so. It is the only importer of the Postgres driver.
//
// proof.go is pure: what a row is, which rows depend on the keyfile, whether a key
// opens one, and what a count of them means. table.go answers for a table as a whole, over
// the sessions of session.go, whose server unasked.go bounds. catalog.go asks what the server
// is and how the table is made, and refuses a standby, row security and another shape; then all
// rows are read (scan.go), or counted and a sample of them read (sample.go), and where there are
// none others are looked for (elsewhere.go). rewrite.go and reseal.go bring rows under another
// key, for as long as pulse.go finds the server at it; clients.go says who else is connected.
// locate.go and incus.go find out where the rows are, and locaterecord.go keeps what was learnt.
//
// Looking never gets in the daemon's way (law 9): sessions are read-only, every
// statement is its own transaction and has a deadline, and a lock that is not free
// is not waited for long. "Could not look" is an answer of its own (law 6).
package rows

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Verdict is what a proof says of one key.
type Verdict string

const (
	Opens   Verdict = "opens"   // every row that was checked
	Partial Verdict = "partial" // some of them: the table is split between keys, or tampered with
	Refuted Verdict = "refuted" // none
	Silent  Verdict = "silent"  // there is positively no dependent row, or positively no database yet
	Unknown Verdict = "unknown" // could not look
)

// Answered is the State of an Answer whose proofs carry verdicts of their own. It is
// never the verdict of a proof.
const Answered Verdict = "answered"

// Class says whose key a row needs.
type Class string

const (
	Legacy       Class = "legacy"   // the master key encrypts the value
	InProc       Class = "inproc"   // the master key wraps the key of the value
	External     Class = "external" // a KMS wraps it; the keyfile does not matter
	UnknownClass Class = "unknown"  // nothing the daemon is known to write
)

// Dependent tells whether only the keyfile's key can open such a row.
func (c Class) Dependent() bool { return c == Legacy || c == InProc }

const (
	nonceSize = 12 // the daemon's GCM nonce, in bytes
	tagSize   = 16
	// wrappedSize is the length of a DEK wrapped in process: nonce, key, tag.
	wrappedSize = nonceSize + key.Size + tagSize
	// inprocID is the kek_id of such a row, whatever the key, and also the additional
	// data of the wrapping.
	inprocID = "inproc:master"
)

// The forms of a row under an external KMS: which key, and what it wrapped.
var (
	vaultKEK = form(`^vault:[^|]+[|][^|]+[|][^|]+$`)
	vaultDEK = form(`^vault:v[0-9]+:` + base64Form)
	gcpKEK   = form(`^gcp:projects/[^|]+$`)
	awsKEK   = form(`^aws:[^|]+[|][^|]+$`)
	cloudDEK = form(`^` + base64Form)
)

// form compiles an expression when it is first needed: a healthy start needs none.
func form(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

const base64Form = `(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)$`

var inprocData = []byte(inprocID)

// classify tells whose key a row needs. A row is called external only where both its
// key's name and its wrapped key have the form of a known KMS: whatever else is there
// is of an unknown class, and must stop who counts on knowing all.
func classify(wrapped, kekID []byte) Class {
	switch {
	case len(wrapped) == 0:
		return Legacy // whatever kek_id says: today's writer leaves '', older ones NULL
	case string(kekID) == inprocID && len(wrapped) == wrappedSize:
		return InProc
	case vaultKEK().Match(kekID) && vaultDEK().Match(wrapped),
		gcpKEK().Match(kekID) && cloudDEK().Match(wrapped),
		awsKEK().Match(kekID) && cloudDEK().Match(wrapped):
		return External
	}
	return UnknownClass
}

// cells are the columns of a row as they stand in the driver's buffer: a million rows
// are tried without an allocation for each.
type cells struct{ username, name, nonce, ciphertext, wrappedDEK, kekID []byte }

// additionalData appends what the daemon authenticates along with the value.
func (c *cells) additionalData(b []byte) []byte {
	return append(append(append(b, c.username...), 0), c.name...)
}

// opener tries one key on many rows. It is used by one goroutine.
type opener struct {
	master cipher.AEAD // nil for the zero Key
	value  []byte      // what the last row said, wiped
	dek    []byte      // wiped
}

func newOpener(k key.Key) *opener { return &opener{master: newGCM(k.UnsafeBytes())} }

// newGCM returns nil unless b has the size of an AES key.
func newGCM(b []byte) cipher.AEAD {
	block, err := aes.NewCipher(b)
	if err != nil {
		return nil
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil
	}
	return gcm
}

func (o *opener) opens(c *cells, class Class, additional []byte) bool {
	defer o.wipe()
	return o.open(c, class, additional)
}

// open leaves what the row says in value, and the key of an in-process row in dek,
// until wipe.
func (o *opener) open(c *cells, class Class, additional []byte) bool {
	if o.master == nil || len(c.nonce) != nonceSize {
		return false // Open panics on a nonce of another size
	}
	gcm := o.master
	switch class {
	case Legacy:
	case InProc:
		dek, err := o.master.Open(o.dek[:0], c.wrappedDEK[:nonceSize], c.wrappedDEK[nonceSize:], inprocData)
		if err != nil {
			return false
		}
		o.dek, gcm = dek, newGCM(dek)
	default:
		return false
	}
	// Opening allocates before it looks, also for a key that does not fit.
	o.value = slices.Grow(o.value[:0], len(c.ciphertext))
	value, err := gcm.Open(o.value[:0], c.nonce, c.ciphertext, additional)
	if err != nil {
		return false
	}
	o.value = value
	return true
}

func (o *opener) wipe() {
	clear(o.value)
	clear(o.dek)
	o.value, o.dek = o.value[:0], o.dek[:0]
}

// Proof is the outcome of trying one key on dependent rows.
type Proof struct {
	Fingerprint key.Fingerprint
	Verdict     Verdict
	Checked     int64 // rows tried
	Opened      int64
}

// String is how many rows the key opened, "3 of 8 rows".
func (p Proof) String() string {
	return fmt.Sprintf("%d of %s", p.Opened, printable.Count(p.Checked, "row"))
}

// judge makes proofs of counts: checked, which is at least 1, and what each key opened.
func judge(keys []key.Key, checked int64, opened []int64) []Proof {
	proofs := make([]Proof, len(keys))
	for i, k := range keys {
		p := Proof{Fingerprint: k.Fingerprint(), Verdict: Partial, Checked: checked, Opened: opened[i]}
		switch p.Opened {
		case 0:
			p.Verdict = Refuted
		case checked:
			p.Verdict = Opens
		}
		proofs[i] = p
	}
	return proofs
}

// Counts says how many rows of each class the table holds.
type Counts struct{ Legacy, InProc, External, Unknown int64 }

// Dependent counts the rows that only the keyfile's key can open.
func (c Counts) Dependent() int64 { return c.Legacy + c.InProc }

// Total counts all rows.
func (c Counts) Total() int64 { return c.Legacy + c.InProc + c.External + c.Unknown }

func (c *Counts) add(class Class, n int64) {
	switch class {
	case Legacy:
		c.Legacy += n
	case InProc:
		c.InProc += n
	case External:
		c.External += n
	default:
		c.Unknown += n
	}
}

func (c *Counts) sum(o Counts) {
	c.Legacy += o.Legacy
	c.InProc += o.InProc
	c.External += o.External
	c.Unknown += o.Unknown
}

// Answer is what the rows said.
type Answer struct {
	State   Verdict // Answered, Silent or Unknown
	Why     string  // for people, a sentence: on what ground Silent, or why Unknown
	Err     error   // not nil exactly when Unknown; one of the sentinels of this package where one fits
	Never   bool    // Silent, and to stay so: the configuration says that there is no database
	Counts  Counts
	Sampled bool // too many rows to check all: Checked says how many were
	// Unlogged: a crash of the server empties the table, and a standby has nothing of it.
	Unlogged bool
	Proofs   []Proof // one for each key asked, in that order
	// Unopened is known with Options.Full only.
	Unopened Unopened
}

// Unopened are dependent rows that none of the keys opens.
type Unopened struct {
	Count int64
	Rows  []RowName // at most the first thousand
	// Stretch: they are several, and no other dependent row was written between the first
	// and the last of them. Rows under a key that is not at hand look like that, which was
	// in force for a time; what was tampered with stands among rows that open.
	Stretch bool
}

// NoAnswer is the answer where the rows could not even be asked.
func NoAnswer(err error, keys ...key.Key) Answer {
	return flat(Answer{State: Unknown, Why: printable.Line(err.Error()), Err: err}, keys)
}

// flat gives every key the verdict that the state already says.
func flat(a Answer, keys []key.Key) Answer {
	a.Proofs = make([]Proof, len(keys))
	for i, k := range keys {
		a.Proofs[i] = Proof{Fingerprint: k.Fingerprint(), Verdict: a.State}
	}
	return a
}
