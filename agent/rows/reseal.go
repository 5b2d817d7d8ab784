package rows

import (
	"crypto/rand"
	"encoding/binary"
	"hash/maphash"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// The columns of a row as the engine reads it. What is not sealed stands together, so
// that it can be digested in one go; the columns that are not named here follow kekIDAt.
const (
	placeAt = iota // ctid
	idAt
	usernameAt
	nameAt
	kekIDAt
	// The last three, counted from the end.
	wrappedFromEnd    = 3
	nonceFromEnd      = 2
	ciphertextFromEnd = 1
)

// resealSQL reads all rows in that order.
func (s *catalog) resealSQL() string {
	return "select ctid, id, username, name, " + s.kekID + s.others + ", " + s.wrapped + ", nonce, ciphertext from " + s.table
}

// lot is rows that are to be written, as the parameters of one UPDATE, each an array with
// one value a row: the row's place; nonce, length and tag of the ciphertext, and wrapped DEK
// as they were; and nonce, ciphertext and wrapped DEK as they shall be, NULL where they stay.
type lot struct {
	rows   uint32
	params [len(writeTypes)][]byte
}

// writeTypes are what the arrays are of, by object id, which is the same in every server: tid,
// bytea, integer.
var writeTypes = [...]uint32{27, 17, 23, 17, 17, 17, 17, 17}

// arrayHeader is the length of what comes before an array's values in binary: the number of
// dimensions, whether there may be NULLs, the type of the values, how many there are, and the
// number of the first (Postgres, array_recv in arrayfuncs.c). The values are as appendCell
// packs them.
const arrayHeader = 5 * 4

// empty makes a lot of no rows out of one that was written.
func (l *lot) empty() {
	l.rows = 0
	for i := range l.params {
		l.params[i] = append(l.params[i][:0], make([]byte, arrayHeader)...)
	}
}

// bytes is about how long it is.
func (l *lot) bytes() (n int) {
	for _, p := range l.params {
		n += len(p)
	}
	return n
}

// arrays are the parameters of a lot that is complete.
func (l *lot) arrays() [][]byte {
	for i, p := range l.params {
		for at, word := range [arrayHeader / 4]uint32{1, 1, writeTypes[i], l.rows, 1} {
			binary.BigEndian.PutUint32(p[4*at:], word)
		}
	}
	return l.params[:]
}

// writeSQL writes a lot into the rows that are what they were when they were read: at the
// same place, with the same nonce, and with a ciphertext of the same length and tag, which
// stands for all of it. The new ciphertext is taken out of its array by number: what is listed
// the server copies twice more.
func (s *catalog) writeSQL() string {
	set, same := "", ""
	if s.wrapped == "wrapped_dek" {
		set = ", wrapped_dek = coalesce(new.wrapped, old.wrapped_dek)"
		same = " and old.wrapped_dek is not distinct from new.old_wrapped"
	}
	return "update " + s.table + ` old set nonce = coalesce(new.nonce, old.nonce), ciphertext = coalesce(($7::bytea[])[new.number::integer], old.ciphertext)` + set + `
  from unnest($1::tid[], $2::bytea[], $3::integer[], $4::bytea[], $5::bytea[], $6::bytea[], $8::bytea[]) with ordinality
    new(place, old_nonce, old_length, old_tag, old_wrapped, nonce, wrapped, number)
  where old.ctid = new.place and old.nonce = new.old_nonce and octet_length(old.ciphertext) = new.old_length
  and substr(old.ciphertext, new.old_length - 15) = new.old_tag` + same
}

// resealed is what one pass over the table found, reseal by reseal.
type resealed struct {
	counts     Counts
	rewritten  int64
	rewrapped  int64
	already    int64   // dependent rows under the target
	byKey      []int64 // dependent rows under each of the others
	unopenable names
	unknown    names
	// contents stands for all that the rows say, but for how it is sealed: the sum of a digest
	// of each row's plaintext and of every column that a rewrite leaves alone.
	contents uint64
}

func (c *resealed) merge(o *resealed) {
	c.counts.sum(o.counts)
	c.rewritten += o.rewritten
	c.rewrapped += o.rewrapped
	c.already += o.already
	for i, n := range o.byKey {
		c.byKey[i] += n
	}
	c.unopenable.merge(o.unopenable)
	c.unknown.merge(o.unknown)
	c.contents += o.contents
}

// resealer brings one row after the other under a key, or looks whether they are. It is used by
// one goroutine. Rewrite (rewrite.go) has several of them go over all rows, in one transaction,
// as agent.Rotate and agent.Repair have it done.
type resealer struct {
	resealed
	target *opener
	keys   []candidate // the one that opened the last row stands first
	seed   maphash.Seed
	data   []byte // additional data
	nonces []byte // random, not used yet
	sealed []byte // what was sealed last
}

// candidate is a key that rows may be under, with its place in what is counted.
type candidate struct {
	*opener
	opened *int64
}

func newResealer(target key.Key, others []key.Key, seed maphash.Seed) *resealer {
	r := &resealer{target: newOpener(target), seed: seed}
	r.byKey = make([]int64, len(others))
	for i, k := range others {
		r.keys = append(r.keys, candidate{newOpener(k), &r.byKey[i]})
	}
	r.keys = append(r.keys, candidate{r.target, &r.already})
	return r
}

// row takes one row of n columns off in and appends to out what is to be written for it, if
// anything.
func (r *resealer) row(in []byte, n int, out *lot) (rest []byte) {
	var c cells
	place, rest := nextCell(in)
	plain := rest
	_, rest = nextCell(rest) // the id
	c.username, rest = nextCell(rest)
	c.name, rest = nextCell(rest)
	c.kekID, rest = nextCell(rest)
	for range n - wrappedFromEnd - kekIDAt - 1 {
		_, rest = nextCell(rest)
	}
	// The length of wrapped_dek, though not its bytes, is part of what must not change: a
	// wrapping is made anew in as many bytes, and NULL and an empty one are two things.
	plain = plain[:len(plain)-len(rest)+4]
	sealed := rest
	c.wrappedDEK, rest = nextCell(rest)
	c.nonce, rest = nextCell(rest)
	c.ciphertext, rest = nextCell(rest)
	sealed = sealed[:len(sealed)-len(rest)]

	class := classify(c.wrappedDEK, c.kekID)
	r.counts.add(class, 1)
	var o *opener
	if class.Dependent() {
		r.data = c.additionalData(r.data[:0])
		if o = r.opener(&c, class); o == nil {
			r.unopenable.add(&c)
		}
	} else if class == UnknownClass {
		r.unknown.add(&c)
	}
	if o == nil {
		r.contents += r.digest(plain, sealed)
		return rest
	}
	r.contents += r.digest(plain, o.value)
	if o != r.target {
		r.seal(out, place, &c, class, o)
	}
	o.wipe()
	return rest
}

// opener finds the key that opens a row, and leaves it open.
func (r *resealer) opener(c *cells, class Class) *opener {
	for i, k := range r.keys {
		if k.open(c, class, r.data) {
			*k.opened++
			r.keys[0], r.keys[i] = k, r.keys[0]
			return k.opener
		}
		k.wipe()
	}
	return nil
}

// seal seals what o has opened under the target: the value of a legacy row, and of an
// in-process row its DEK alone.
func (r *resealer) seal(out *lot, place []byte, c *cells, class Class, o *opener) {
	length := binary.BigEndian.AppendUint32(nil, uint32(len(c.ciphertext)))
	var nonce, ciphertext, wrapped []byte
	if fresh := r.nonce(); class == Legacy {
		r.rewritten++
		nonce = fresh
		r.sealed = r.target.master.Seal(r.sealed[:0], fresh, o.value, r.data)
		ciphertext = r.sealed
	} else {
		r.rewrapped++
		r.sealed = r.target.master.Seal(append(r.sealed[:0], fresh...), fresh, o.dek, inprocData)
		wrapped = r.sealed
	}
	tag := c.ciphertext[len(c.ciphertext)-tagSize:]
	for i, value := range [len(writeTypes)][]byte{place, c.nonce, length, tag, c.wrappedDEK, nonce, ciphertext, wrapped} {
		out.params[i] = appendCell(out.params[i], value)
	}
	out.rows++
}

// nonce is 12 fresh random bytes, good until the next.
func (r *resealer) nonce() []byte {
	if len(r.nonces) == 0 {
		r.nonces = make([]byte, 256*nonceSize)
		rand.Read(r.nonces) //nolint:errcheck // never fails
	}
	n := r.nonces[:nonceSize:nonceSize]
	r.nonces = r.nonces[nonceSize:]
	return n
}

// digest stands for the columns that are not sealed and for the value, together.
func (r *resealer) digest(plain, value []byte) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], maphash.Bytes(r.seed, plain))
	binary.BigEndian.PutUint64(b[8:], maphash.Bytes(r.seed, value))
	return maphash.Bytes(r.seed, b[:])
}
