package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/awssecrets"
)

// awsSecrets are the names of the two shelves' secrets in the scripts.
var awsSecrets = []string{"hosts/h1/master", "hosts/h1/master-quarantine"}

// cmdAWS is a script's AWS Secrets Manager, and what happens to it:
//
//	aws start               start it, and write the credentials file; $AWS_ESCROW are the settings of an escrow there
//	aws only                name it in keyguard.toml, instead of usb
//	aws can ACTION…         all that this host may do; "least" is the manual's policy
//	aws put NAME FORM       a person's version, current and without a label of ours; NAME - is FORM as text
//	aws delete|restore [quarantine]   deletion of the secret is scheduled, or taken back
//	aws kms                 the KMS key of both is disabled, until heal
//	aws skew DURATION       its clock is so much ahead, until heal
//	aws move LABEL NAME     UpdateSecretVersionStage: to the version that is labelled as key NAME's
//	aws break ACTION STATUS CODE [MESSAGE]   an error, until heal
//	aws replica             the secrets are replicas of another region's
//	aws heal
//	aws revoke              the access key
//	aws calls [N]           so many calls were made since the last aws calls
//	aws newest NAME         the current value is this key's base64
//	aws versions N          so many versions
//	aws fill N              labels of N other keys
func cmdAWS(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if args[0] == "start" {
		s.startAWS(ts)
		return
	}
	if s.aws == nil {
		ts.Fatalf("aws start comes first")
	}
	secret := awsSecrets[0]
	if len(args) > 1 && args[1] == "quarantine" {
		secret = awsSecrets[1]
	}
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		ts.Check(err)
		return n
	}
	switch args[0] {
	case "only":
		data, err := os.ReadFile(s.path("keyguard.toml"))
		ts.Check(err)
		config, _, _ := strings.Cut(string(data), "[[escrow]]")
		config += fmt.Sprintf("[[escrow]]\nname = \"aws\"\nkind = \"aws-secrets-manager\"\nregion = %q\nsecret = %q\ncredentials_file = %q\nendpoint = %q\nplaintext = true\n",
			s.aws.Region(), awsSecrets[0], s.path("credentials"), s.aws.Addr())
		ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600))
	case "can":
		actions := args[1:]
		if len(actions) == 1 && actions[0] == "least" {
			actions = awssecrets.Least
		}
		s.aws.Allow(s.awsWho, actions...)
	case "put":
		value := []byte(args[2])
		if args[1] != "-" {
			value = form(ts, testKey(args[1]), args[2])
		}
		s.aws.Put(secret, value, utf8.Valid(value))
	case "delete":
		s.aws.Delete(secret)
	case "restore":
		s.aws.Undelete(secret)
	case "kms":
		s.aws.DisableKMS()
	case "skew":
		by, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.aws.Skew(by)
	case "move":
		label := "keyguard-" + string(testKey(args[2]).Fingerprint())
		for id, labels := range s.aws.Stages(secret) {
			if slices.Contains(labels, label) {
				s.aws.Move(secret, args[1], id)
				return
			}
		}
		ts.Fatalf("no version is labelled %s", label)
	case "break":
		f := awssecrets.Fault{Kind: awssecrets.Fail, Action: args[1], Status: number(args[2]), Code: args[3]}
		if len(args) > 4 {
			f.Message = args[4]
		}
		s.aws.Break(f)
	case "replica":
		s.aws.Replica("eu-west-1")
	case "heal":
		s.aws.Heal()
	case "revoke":
		s.aws.Revoke(s.awsWho)
	case "calls":
		total := 0
		for _, n := range s.aws.Calls() {
			total += n
		}
		if len(args) > 1 && total-s.awsCalls != number(args[1]) {
			ts.Fatalf("%d calls: %v", total-s.awsCalls, s.aws.Calls())
		}
		s.awsCalls = total
	case "newest":
		same := s.aws.Value(secret, "") == base64.StdEncoding.EncodeToString(testKey(args[1]).UnsafeBytes())
		if same == neg {
			ts.Fatalf("the newest copy is key %s: %v", args[1], same)
		}
	case "versions":
		if n := len(s.aws.Versions(secret)); n != number(args[1]) {
			ts.Fatalf("%d versions", n)
		}
	case "fill":
		for i := range number(args[1]) {
			s.aws.Label(secret, fmt.Sprintf("keyguard-%016x", i+1))
		}
	default:
		ts.Fatalf("no aws %s", args[0])
	}
}

func (s *sandbox) startAWS(ts *testscript.TestScript) {
	s.aws = awssecrets.Start(awssecrets.Options{})
	ts.Defer(func() {
		for _, a := range s.aws.Abuses() {
			ts.Logf("abuse of the API: %s", a)
		}
		if len(s.aws.Abuses()) > 0 {
			ts.Fatalf("no client may send this")
		}
	})
	s.awsWho = s.aws.Grant(awssecrets.Actions...)
	ts.Check(os.WriteFile(s.path("credentials"), s.awsWho.File("default"), 0o600))
	ts.Setenv("AWS_ESCROW", fmt.Sprintf("name=aws,kind=aws-secrets-manager,region=%s,secret=%s,credentials_file=%s,endpoint=%s,plaintext=true",
		s.aws.Region(), awsSecrets[0], s.path("credentials"), s.aws.Addr()))
	// A person with AWS's own command, who may more than the host.
	ts.Check(os.WriteFile(s.path("person"), s.aws.Grant(awssecrets.People...).File("default"), 0o600))
	ts.Setenv("AWS_SHARED_CREDENTIALS_FILE", s.path("person"))
	ts.Setenv("AWS_CONFIG_FILE", "/dev/null")
	ts.Setenv("AWS_DEFAULT_REGION", s.aws.Region())
	ts.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	ts.Setenv("SECRETSMANAGER", "aws --endpoint-url http://"+s.aws.Addr()+" --output text secretsmanager")
}

// awsValues are the values of all versions, by name.
func (s *sandbox) awsValues() map[string]string {
	all := map[string]string{}
	if s.aws != nil {
		for _, secret := range awsSecrets {
			for _, id := range s.aws.Versions(secret) {
				all[secret+"/"+id] = s.aws.Value(secret, id) + fmt.Sprint(s.aws.Stages(secret)[id])
			}
		}
	}
	return all
}
