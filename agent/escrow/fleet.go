package escrow

import (
	"context"
	"errors"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Fleet is a store seen as a whole, by an administrator: the places of many hosts, whose
// names hold {hostname}. It asks for metadata alone and never for a value, so that it needs
// no right to read one. It is safe for use by several goroutines.
type Fleet interface {
	// Name is the escrow's name in the configuration.
	Name() string
	// Place is where all of them are; Where holds {hostname}. After Hosts it may know better
	// what they are lost with.
	Place() Place
	// Lags tells that the store is eventually consistent: what it shows may be minutes old,
	// and what looks wrong once is to be looked at again.
	Lags() bool
	// NamesKeys tells that it shows which key a copy is, so that two hosts with one key show.
	NamesKeys() bool
	// Hosts lists the hosts that have a place there, by the name that stands for them in its
	// names. What the listing itself tells of one stands beside it, nil for nothing.
	// ErrNotListed: the store cannot tell.
	Hosts(ctx context.Context) (map[string]*Shown, error)
	// Look tells of one host's place. That nothing stands there is no error: Shown.Missing.
	Look(ctx context.Context, host string) (Shown, error)
	Close() error
}

// Policied is a Fleet whose store tells who may destroy what stands there.
type Policied interface {
	// Destroyers names the machines' identities that may destroy the copies of a host, with
	// that by which they may; host "" asks for what is granted on all of the store. The error
	// says what is not known of it, and may stand beside those that are known. ErrLeftOpen:
	// the store was read, and it is what stands there that leaves something open.
	Destroyers(ctx context.Context, host string) ([]string, error)
}

// ErrLeftOpen says that policies were read, and do not say all.
var ErrLeftOpen = errors.New("the policies leave it open")

// ErrNotListed: the store tells of a host that is asked for, and not which hosts it has.
var ErrNotListed = errors.New("the store does not list its hosts")

// Shown is what the metadata of one host's place shows. All of it is the store's word (law 1).
type Shown struct {
	// Missing: nothing stands under the host's name.
	Missing bool `json:"missing,omitempty"`
	// Current and Quarantine are the newest copy of each shelf, nil for none. A time that the
	// store does not tell is zero.
	Current    *Copy `json:"current,omitempty"`
	Quarantine *Copy `json:"quarantine,omitempty"`
	// Keys are those that the store names as current ones, now or earlier.
	Keys []key.Fingerprint `json:"keys,omitempty"`
}
