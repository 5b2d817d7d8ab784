package decide

import (
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// TestDue shows what is still to be brought to escrow "gcp".
func TestDue(t *testing.T) {
	unverified := saved("current/1", a)
	u := unverified.Saved["gcp"]
	u.Last.Verified = false
	unverified.Saved["gcp"] = u
	kept := saved("current/1", b)
	kept.Saved["gcp"].Copies["quarantine/1"] = a
	remembered := holds("gcp")
	remembered.Remembered = true
	for _, test := range []struct {
		name string
		e    Evidence
		want []key.Fingerprint
	}{
		{"nothing was saved", Evidence{Keyfile: good(a), History: history()}, []key.Fingerprint{a}},
		{"it is the last that was saved", Evidence{Keyfile: good(a), History: saved("current/1", a)}, nil},
		{"it was not read back", Evidence{Keyfile: good(a), History: unverified}, []key.Fingerprint{a}},
		{"the last that was saved is another", Evidence{Keyfile: good(a), Ledger: known(a, time.Hour), History: saved("current/1", b)}, []key.Fingerprint{a}},
		{"the last that was saved is another, and a rotation is open", Evidence{Keyfile: good(a), Ledger: rotation(a, b, true), History: saved("current/1", b)}, []key.Fingerprint{a}},
		{"it stands in quarantine, and a rotation is open", Evidence{Keyfile: good(a), Ledger: rotation(a, b, true), History: saved("current/1", a)}, nil},
		{"it is not there any more", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp")}}, []key.Fingerprint{a}},
		{"it is there, under another name", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", a))}}, nil},
		{"it is there, and does not say which key it is", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", ""))}}, nil},
		{"it is not there any more, and another has its name", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", c))}}, []key.Fingerprint{a}},
		{"it is in quarantine there", Evidence{Keyfile: good(a), History: kept}, nil},
		{"it is in quarantine there, and proven since", Evidence{Keyfile: good(a), Ledger: known(a, time.Hour), History: kept}, []key.Fingerprint{a}},
		{"it is in the local quarantine and in the one there", Evidence{Keyfile: good(b), Local: local(a), History: kept}, nil},
		{"another place has nothing", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("other")}}, nil},
		{"the place was not asked just now", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{remembered}}, nil},
		{"the place cannot answer", Evidence{Keyfile: good(a), History: saved("current/1", a), Escrows: []EscrowEvidence{down("gcp", true)}}, nil},
		{"the local quarantine", Evidence{Keyfile: good(a), Local: local(b, a, c), History: saved("current/1", a)}, []key.Fingerprint{b, c}},
		{"a proven key of the local quarantine", Evidence{Keyfile: missing, Ledger: known(b, time.Hour), Local: local(b), History: saved("current/1", a)}, []key.Fingerprint{b}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Due(test.e, "gcp"); !slices.Equal(got, test.want) {
				t.Errorf("%v instead of %v", got, test.want)
			}
		})
	}
}
