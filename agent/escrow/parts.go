package escrow

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// PartOf says which part of each key an escrow keeps, a member of a Split. The zero PartOf
// is the whole key.
type PartOf struct{ Need, Number int }

// Whole tells that it is no part.
func (p PartOf) Whole() bool { return p == PartOf{} }

// Member is a store that keeps one part of each key: an escrow of any kind but Split, made
// with Part set.
type Member struct {
	Escrow
	// Number is that of the parts it keeps, and no other store's: for ever, whatever the
	// store is called.
	Number int
	// Required: a rotation does not go on without its part here.
	Required bool
}

// PartsError is a save that is not on every member. Below Need the key is not saved, and
// cannot be read from here; with Need or more it is, and Save tells by ErrPartly.
type PartsError struct {
	Saved, Need, Of int
	// Safe: no required member lacks a part that a Save would bring, and one more store may be
	// lost. A rotation may rely on it.
	Safe   bool
	Errors []error  // what each member said that has no part now, each of one line
	Stored []Top    // what a Save has stored, or found
	Bare   []string // the members of which Lacks knows that they have no part, or none that can be read
}

func (e *PartsError) Error() string {
	said := ""
	if err := errors.Join(e.Errors...); err != nil {
		said = strings.ReplaceAll(err.Error(), "\n", "; ") // each is of one line
	}
	switch spare := e.Saved - e.Need; {
	case e.Saved < e.Need:
		return fmt.Sprintf("not saved: %d of %d members have their part, and %d are needed: %s", e.Saved, e.Of, e.Need, said)
	case spare == 0:
		return fmt.Sprintf("saved on %d of %d members, and none of them may be lost: %s", e.Saved, e.Of, said)
	default:
		return fmt.Sprintf("saved on %d of %d members, %d more may be lost: %s", e.Saved, e.Of, spare, said)
	}
}

func (e *PartsError) Unwrap() []error {
	if e.Saved >= e.Need {
		return []error{ErrPartly}
	}
	return e.Errors
}

// PartOutcome is what became of one member's part of a key.
type PartOutcome struct {
	Member   string
	Number   int
	Required bool
	Err      error // why it did not take part; ErrCorrupt where it is not the key's
}

// Wrong tells that what the member keeps is no use: bytes that are no part, or not the
// key's, or that it gives to nobody. Of one that does not answer, that has no part, or that is
// sealed to others, it is not known (law 6).
func (p PartOutcome) Wrong() bool {
	wrong := []error{ErrNotKey, ErrCorrupt, ErrUnreadable, ErrPartMoved, ErrRecut}
	return slices.ContainsFunc(wrong, func(is error) bool { return errors.Is(p.Err, is) })
}
