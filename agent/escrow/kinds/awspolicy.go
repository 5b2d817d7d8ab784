package kinds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// awsDestroying are the calls by which copies are lost, or the right to make them is had. A
// version that has lost its labels is thrown away by AWS itself.
var awsDestroying = []string{"secretsmanager:DeleteSecret", "secretsmanager:UpdateSecretVersionStage",
	"secretsmanager:PutResourcePolicy", "secretsmanager:DeleteResourcePolicy"}

// errIAM is what a secret's own policy leaves open.
var errIAM = errors.New("what IAM allows is not looked up (aws iam simulate-principal-policy tells), and the secret's own policy does not deny all of " +
	strings.Join(awsDestroying, ", ") + " to everybody but whom it names")

// awsList is what stands in a policy as one text or as several.
type awsList []string

func (l *awsList) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = awsList{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// awsStatement is one of a policy's
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html).
type awsStatement struct {
	Effect                  string
	Principal, NotPrincipal awsPrincipal
	Action, NotAction       awsList
	Resource, NotResource   awsList
	Condition               map[string]map[string]awsList
}

// awsPrincipal is "*", or who by the kind.
type awsPrincipal map[string]awsList

func (p *awsPrincipal) UnmarshalJSON(data []byte) error {
	var all string
	if json.Unmarshal(data, &all) == nil {
		*p = awsPrincipal{"AWS": {all}}
		return nil
	}
	return json.Unmarshal(data, (*map[string]awsList)(p))
}

// awsMatch is a policy's pattern for an action: * is any text, ? one letter, and case does
// not count.
func awsMatch(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	for i := range len(pattern) {
		switch pattern[i] {
		case '*':
			for j := range len(action) + 1 {
				if awsMatch(pattern[i+1:], action[j:]) {
					return true
				}
			}
			return false
		default:
			if action == "" || pattern[i] != '?' && pattern[i] != action[0] {
				return false
			}
			action = action[1:]
		}
	}
	return action == ""
}

// of tells whether a statement speaks of an action.
func (s awsStatement) of(action string) bool {
	in := func(list awsList) bool {
		return slices.ContainsFunc(list, func(p string) bool { return len(p) <= 128 && strings.Count(p, "*") <= 3 && awsMatch(p, action) })
	}
	if len(s.NotAction) > 0 {
		return !in(s.NotAction)
	}
	return in(s.Action)
}

// denies tells whether a statement denies an action on this secret to everybody, or to
// everybody but principals that it names.
func (s awsStatement) denies(action string) bool {
	if s.Effect != "Deny" || len(s.NotAction)+len(s.NotPrincipal)+len(s.NotResource) > 0 || !s.of(action) ||
		!slices.Contains(s.Principal["AWS"], "*") || !slices.Contains(s.Resource, "*") {
		return false
	}
	for operator, keys := range s.Condition {
		for name, values := range keys {
			if !slices.Contains([]string{"StringNotEquals", "ArnNotEquals"}, operator) || !strings.EqualFold(name, "aws:PrincipalArn") ||
				len(values) == 0 || slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "*?$") }) {
				return false
			}
		}
	}
	return true // conditions add up: to nobody whom one of them names
}

// awsDestroyers are the principals to whom a secret's policy allows to destroy. The error
// says that others may be allowed to.
func awsDestroyers(text string) (who []string, err error) {
	var policy struct{ Statement json.RawMessage }
	var statements []awsStatement
	if text != "" {
		if json.Unmarshal([]byte(text), &policy) != nil {
			return nil, fmt.Errorf("%w: a policy that cannot be read", escrow.ErrCorrupt)
		}
		if len(policy.Statement) > 0 && policy.Statement[0] == '{' {
			policy.Statement = slices.Concat(json.RawMessage("["), policy.Statement, json.RawMessage("]"))
		}
		if json.Unmarshal(policy.Statement, &statements) != nil {
			return nil, fmt.Errorf("%w: a policy that cannot be read", escrow.ErrCorrupt)
		}
	}
	for _, action := range awsDestroying {
		if slices.ContainsFunc(statements, func(s awsStatement) bool { return s.denies(action) }) {
			continue
		}
		err = errIAM
		for _, s := range statements {
			if s.Effect != "Allow" || !s.of(action) {
				continue
			}
			if len(s.NotPrincipal) > 0 {
				who = append(who, "everybody but some by the secret's policy")
			}
			for _, names := range s.Principal {
				for _, name := range names {
					// The account itself leaves it to IAM, and a person comes by single sign-on.
					if !strings.HasSuffix(name, ":root") && !strings.Contains(name, "AWSReservedSSO_") {
						who = append(who, clip(name)+" by the secret's policy")
					}
				}
			}
		}
	}
	slices.Sort(who)
	return slices.Compact(who), err
}

// awsFleet is the view of many hosts that also tells what the secrets' own policies say.
type awsFleet struct {
	*each
	aws     *AWS
	pattern string
}

// Destroyers reads the policies of both secrets of a host, for which it needs
// secretsmanager:GetResourcePolicy. What an identity may do by IAM, the store does not tell:
// it is known only where a secret's policy denies it.
func (f *awsFleet) Destroyers(ctx context.Context, host string) ([]string, error) {
	if host == "" {
		return nil, nil // there is nothing but the policies of each
	}
	var who []string
	var unknown []error
	for _, s := range escrow.Shelves {
		if err := f.o.wait(ctx); err != nil {
			return nil, err
		}
		var got struct{ ResourcePolicy string }
		name := shelfName(forHost(f.pattern, host), s)
		err := f.aws.call(ctx, "GetResourcePolicy", map[string]any{"SecretId": name}, &got)
		if errors.Is(err, escrow.ErrNoPlace) {
			continue // nothing to destroy
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the policy of %s: %w", name, err)
		}
		more, err := awsDestroyers(got.ResourcePolicy)
		who = append(who, more...)
		if err != nil {
			unknown = append(unknown, err)
		}
	}
	slices.Sort(who)
	return slices.Compact(who), joined(unknown)
}
