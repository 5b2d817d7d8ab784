package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// partsFacts are what status and the doctor know, besides, of an escrow that keeps keys in parts.
type partsFacts struct {
	need    int
	members []escrowFacts // with what each is lost together with, and no copies of its own
	others  []escrowFacts // that keep no part of this copy, and get none
}

// examineMembers asks the stores of a split of which that is wanted what each is lost together with,
// all at once. The copy is the newest current one, "" for none.
func examineMembers(ctx context.Context, s escrow.Shared, copy string, now time.Time, wanted func(escrow.Place) bool) *partsFacts {
	members := s.Members()
	all := make([]escrowFacts, len(members))
	crew.Each(len(members), func(i int) {
		m, one := members[i], &all[i]
		one.EscrowStatus = EscrowStatus{Name: m.Name(), Place: m.Place()}
		if wanted(one.Place) {
			one.examine(ctx, m.Escrow)
		}
		if c, ok := m.Escrow.(escrow.Credentialed); ok {
			one.Ending = c.Credential(ctx).Ends(now)
		}
	})
	need, on := s.Cutting(escrow.Copy{ID: copy})
	if lacks := s.Lacks(escrow.Copy{ID: copy}); lacks != nil {
		for i := range all {
			all[i].bare = slices.Contains(lacks.Bare, all[i].Name)
		}
	}
	x := &partsFacts{need: need}
	for i, one := range all {
		if on[i] {
			x.members = append(x.members, one)
		} else {
			x.others = append(x.others, one)
		}
	}
	return x
}

// after is what becomes of an escrow where a fate strikes each store by itself: of a key in
// parts so many must be left that they rebuild it.
func (s escrowFacts) after(one func(escrowFacts) fate) fate {
	if s.parts == nil {
		return one(s)
	}
	left, perhaps := 0, 0
	var why []string
	for _, m := range s.parts.members {
		end := one(m)
		if m.bare {
			end = fate{SurvivesNot, "without a part that can be read"}
		}
		switch end.verdict {
		case Survives:
			left++
		case SurvivalUnsure:
			perhaps++
		}
		why = append(why, strings.TrimSpace(m.Name+" "+end.why))
	}
	text := fmt.Sprintf("in parts of which %d rebuild it: %s", s.parts.need, strings.Join(why, "; "))
	switch {
	case left >= s.parts.need:
		return fate{Survives, text}
	case left+perhaps >= s.parts.need:
		return fate{SurvivalUnsure, text}
	}
	return fate{SurvivesNot, text}
}

// in names a failure domain in which at least n of the members are, and them.
func (x *partsFacts) in(n int) (domain, members string) {
	at := map[string][]string{}
	for _, m := range x.members {
		for _, domain := range m.exam.Domains(m.Place) {
			if at[domain] = append(at[domain], m.Name); len(at[domain]) >= n {
				return domain, strings.Join(at[domain], " and ")
			}
		}
	}
	return "", ""
}

// together names the failure domain in which enough parts are kept to rebuild the key, ""
// for none.
func (x *partsFacts) together() string {
	domain, members := x.in(x.need)
	if domain == "" {
		return ""
	}
	return fmt.Sprintf("%s are all in %s: who administers that has the key", members, domain)
}

// lostTogether names the failure domain with which so many parts are lost that too few are
// left, "" for none; where any one part is needed it is none.
func (x *partsFacts) lostTogether() string {
	spare := max(len(x.members)-x.need, 0)
	domain, members := x.in(spare + 1)
	if domain == "" || spare == 0 {
		return ""
	}
	return fmt.Sprintf("%s are all lost with %s, and fewer than %d are left", members, domain, x.need)
}

// domain is what a key in parts is lost with: one failure domain that takes too many of them along,
// or else so many stores.
func (x *partsFacts) domain() string {
	spare := max(len(x.members)-x.need, 0)
	var all []string
	for _, m := range x.members {
		all = append(all, strings.Join(m.exam.Domains(m.Place), " or "))
	}
	if domain, _ := x.in(spare + 1); domain != "" && (spare > 0 || len(slices.Compact(slices.Clone(all))) == 1) {
		return domain
	}
	return fmt.Sprintf("any %d of %s", spare+1, strings.Join(all, ", "))
}

// afterAdministrator is the fate of a key in parts where one administrator reads or destroys
// what is theirs: that must not be enough parts to rebuild the key, and enough others must be
// left, as far as this host's own credentials go.
func (f facts) afterAdministrator(s escrowFacts, end fate) fate {
	where, kept := s.parts.together(), 0
	for _, m := range s.parts.members {
		if !m.bare && m.afterOperator().verdict != SurvivesNot {
			kept++
		}
	}
	switch {
	case where != "":
		return fate{SurvivesNot, where}
	case end.verdict == SurvivalUnsure && f.whole() == "" && kept-1 >= s.parts.need:
		return fate{Survives, fmt.Sprintf("in %d parts, each with an administrator of its own: none of them can read it or take it away", len(s.parts.members))}
	}
	return end
}

// whole names a copy of the key that stands whole where others read it.
func (f facts) whole() string {
	k := f.right()
	for _, s := range f.escrows {
		for _, c := range s.evidence.Copies {
			if c.Key != k || k == "" || !c.Have {
				continue
			}
			_, rest, _ := strings.Cut(c.ID, "/")
			if s.parts == nil || strings.Contains(rest, "/") { // what a member has by itself
				return fmt.Sprintf("%q holds it whole (%s), and whoever reads that has the key", s.Name, c.ID)
			}
		}
	}
	return ""
}

// storeRead judges whether somebody who reads one store, and is not root on this host, has
// the key. Root here has it anyway.
func (f facts) storeRead() ThreatVerdict {
	v := ThreatVerdict{Threat: StoreRead, Verdict: SurvivesNot, Lacks: LacksParts}
	k := f.right()
	if k == "" {
		return f.copies(StoreRead, LacksKey, nil) // nobody can tell
	}
	if whole := f.whole(); whole != "" {
		v.Evidence = []string{whole}
		return v
	}
	for _, s := range f.escrows {
		if s.parts != nil {
			if where := s.parts.together(); where != "" {
				v.Evidence = append(v.Evidence, fmt.Sprintf("%q: %s", s.Name, where))
				return v
			}
			v.Evidence = append(v.Evidence, fmt.Sprintf("%q holds it in %d parts, of which fewer than %d tell nothing", s.Name, len(s.parts.members), s.parts.need))
		} else if _, sealed := s.holds(k); sealed != "" {
			v.Evidence = append(v.Evidence, fmt.Sprintf("%q holds it sealed (%s)", s.Name, sealed))
		}
		if s.Err != nil {
			v.Verdict, v.Lacks = SurvivalUnsure, LacksAnswer
			v.Evidence = append(v.Evidence, fmt.Sprintf("%q cannot answer: %s", s.Name, s.Why))
		}
	}
	switch {
	case v.Evidence == nil:
		v.Verdict, v.Lacks, v.Evidence = SurvivalUnsure, LacksCopy, []string{"no escrow holds the key"}
	case v.Verdict == SurvivesNot:
		v.Verdict, v.Lacks = Survives, LacksNothing
		v.Evidence = append(v.Evidence, "root on this host has the key anyway")
	}
	return v
}

// checkParts says what keeps a key in parts from being worth it.
func (f facts) checkParts(s escrowFacts) Check {
	c := Check{Name: fmt.Sprintf("parts of %q", s.Name), State: CheckProblem}
	where, lost, whole := s.parts.together(), s.parts.lostTogether(), f.whole()
	switch {
	case where != "":
		c.Text, c.Fix = where, FixOwners
	case lost != "":
		c.Text, c.Fix = lost, FixPlaces
	case whole != "":
		c.Text, c.Fix = "the parts hide nothing: "+whole, FixWhole
	case s.Refuses != nil:
		c.Text, c.Err = s.Refuses.Error(), s.Refuses
	case s.Lacks != nil:
		c.Text, c.Err = s.Lacks.Error(), s.Lacks
	case len(s.parts.members) == s.parts.need:
		c.State, c.Text, c.Fix = CheckUnknown, fmt.Sprintf("all %d are needed: none may be lost", s.parts.need), FixMember
	default:
		c.State, c.Text = CheckOK, fmt.Sprintf("%d of %d may be lost, and fewer than %d tell nothing", len(s.parts.members)-s.parts.need, len(s.parts.members), s.parts.need)
	}
	return c
}
