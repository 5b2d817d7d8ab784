package kinds

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	// awsTimeout is for one call, the credentials that it may need first included.
	awsTimeout = 5 * time.Second
	awsPage    = 100 // versions in one answer, the API's highest
	awsPages   = 100 // ends a listing whose tokens go in circles

	awsCurrent, awsPrevious = "AWSCURRENT", "AWSPREVIOUS"
	// awsLabel begins the staging label that names a version's key. AWS throws versions
	// without a label away once there are more than a hundred.
	awsLabel = "keyguard-"
	// awsLabels is how many labels a secret may have used before it is full: the API
	// allows 20, AWSCURRENT and AWSPREVIOUS among them
	// (https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html).
	awsLabels = 18

	awsVersionMin, awsVersionMax = 32, 64 // letters of a version's id
)

// AWSOptions say where in AWS Secrets Manager an escrow is, and who asks.
type AWSOptions struct {
	Name   string // of the escrow
	Region string // "eu-central-1"
	// Secret is the name of the current shelf's secret, `{hostname}` already expanded; the
	// quarantine shelf is the secret "<Secret>-quarantine".
	Secret string
	// Credentials say who asks. They are named, never guessed.
	Credentials AWSCredentials
	// Endpoint is host:port of an emulator or a VPC endpoint, "" for the region's own.
	Endpoint string
	// Plaintext speaks to a fake or an emulator without TLS: on loopback only.
	Plaintext bool
	// SealTo are recipients as age(1) takes them; IdentityFiles let this host open what is sealed.
	SealTo        []string
	IdentityFiles []string
	// Part is the part of each key that is kept here, the zero PartOf for the whole key.
	Part escrow.PartOf
	// Timeout is for each call; 0 is 5 s.
	Timeout time.Duration
}

// AWS is an escrow in AWS Secrets Manager: one secret a shelf, one version a copy, its
// SecretString the base64 of the key, of the part or of the age file. The newest current
// copy is the version labelled AWSCURRENT, which every tool of AWS reads; and every version
// is labelled with the fingerprint of its key, in the very call that adds it.
//
// It makes five calls of the API (CreateSecret, DescribeSecret, GetSecretValue,
// ListSecretVersionIds, PutSecretValue), JSON over HTTPS, with nothing of the vendor's but
// the signature: the service's client and its configuration would add almost half to every
// start of this program.
type AWS struct {
	o     AWSOptions
	seal  *sealer
	creds *awsCredentials
	url   string
	http  *http.Transport
	// saving holds one place: a Save looks and then writes.
	saving chan struct{}
}

// NewAWS checks the options. It opens no socket and no file.
func NewAWS(o AWSOptions) (*AWS, error) {
	fail := func(err error) (*AWS, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	if o.Region == "" || o.Secret == "" {
		return fail(errors.New("region and secret are needed"))
	}
	if strings.Trim(o.Region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fail(fmt.Errorf("%q is no region", clip(o.Region)))
	}
	host := cmp.Or(o.Endpoint, "secretsmanager."+o.Region+"."+awsDomain(o.Region))
	if o.Endpoint != "" {
		name, port, err := net.SplitHostPort(o.Endpoint)
		switch {
		case err != nil || port == "" || strings.Trim(port, "0123456789") != "":
			return fail(fmt.Errorf("endpoint %q is not host:port", o.Endpoint))
		case o.Plaintext && !loopback(name):
			return fail(fmt.Errorf("plaintext is for loopback addresses only, not %s", name))
		}
	}
	scheme := "https"
	if o.Plaintext {
		scheme = "http"
	}
	if err := o.Credentials.check(); err != nil {
		return fail(err)
	}
	seal, err := newSealer(o.Part, o.SealTo, o.IdentityFiles...)
	if err != nil {
		return fail(err)
	}
	o.Timeout = cmp.Or(o.Timeout, awsTimeout)
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		IdleConnTimeout: gcpIdle,
		// No HTTP/2, whose debugging (GODEBUG=http2debug) writes bodies to the log.
		Protocols: http1(),
	}
	return &AWS{o: o, seal: seal, creds: newAWSCredentials(o.Credentials, o.Region), url: scheme + "://" + host + "/",
		http: transport, saving: make(chan struct{}, 1)}, nil
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// awsDomain is the domain of a region's partition
// (https://docs.aws.amazon.com/general/latest/gr/asm.html).
func awsDomain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

func (a *AWS) Name() string { return a.o.Name }

func (a *AWS) Place() escrow.Place {
	return escrow.Place{Kind: "aws-secrets-manager", Where: a.o.Secret + " in " + a.o.Region, Domain: "the AWS account of " + a.o.Credentials.String() + " (" + a.o.Region + ")"}
}

// Close ends the connections.
func (a *AWS) Close() error {
	a.http.CloseIdleConnections()
	return nil
}

func (a *AWS) secret(s escrow.Shelf) string { return shelfName(a.o.Secret, s) }

func (a *AWS) unexpanded() bool { return strings.Contains(a.o.Secret, "{") }

// label is the staging label of a copy of k.
func (a *AWS) label(k key.Key) string {
	if a.seal.part.Whole() {
		return awsLabel + string(k.Fingerprint())
	}
	return awsLabel + string(k.Fingerprint()) + suffix(a.seal.part)
}

// awsClaim reads what the labels of a version say of it.
func awsClaim(labels []string) (key.Fingerprint, escrow.PartOf) {
	for _, l := range labels {
		rest, ok := strings.CutPrefix(l, awsLabel)
		if !ok {
			continue
		}
		base, part, cut := cutSuffix(rest)
		if !cut {
			base = rest
		}
		if f, err := key.ParseFingerprint(base); err == nil {
			return f, part
		}
	}
	return "", escrow.PartOf{}
}

// awsVersion is a version as ListSecretVersionIds and GetSecretValue describe it.
type awsVersion struct {
	VersionID     string `json:"VersionId"`
	VersionStages []string
	CreatedDate   float64 // seconds since 1970
	SecretString  *string
	SecretBinary  []byte
}

// awsDescription is what DescribeSecret tells of a secret.
type awsDescription struct {
	ARN                string
	DeletedDate        *float64
	VersionIDsToStages map[string][]string `json:"VersionIdsToStages"`
	PrimaryRegion      string
}

func (d awsDescription) labels() (n int) {
	for _, stages := range d.VersionIDsToStages {
		for _, l := range stages {
			if l != awsCurrent && l != awsPrevious {
				n++
			}
		}
	}
	return n
}

func (d awsDescription) has(label string) bool {
	for _, stages := range d.VersionIDsToStages {
		if slices.Contains(stages, label) {
			return true
		}
	}
	return false
}

func awsTime(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(math.Round(part*1000))*int64(time.Millisecond)).UTC()
}

// List needs secretsmanager:DescribeSecret and :ListSecretVersionIds on both secrets. One
// shelf is asked after the other, so that a store in trouble meets one call and not two.
func (a *AWS) List(ctx context.Context) ([]escrow.Copy, error) {
	var all []escrow.Copy
	for _, s := range escrow.Shelves {
		copies, err := a.list(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", a.secret(s), err)
		}
		all = append(all, copies...)
	}
	return all, nil
}

func (a *AWS) list(ctx context.Context, s escrow.Shelf) ([]escrow.Copy, error) {
	about, err := a.describe(ctx, s)
	if err != nil {
		return nil, err
	}
	type dated struct {
		escrow.Copy
		current int
	}
	var list []dated
	req := map[string]any{"SecretId": a.secret(s), "IncludeDeprecated": true, "MaxResults": awsPage}
	for page := 0; ; page++ {
		var got struct {
			Versions  []awsVersion
			NextToken string
		}
		if page == awsPages {
			return nil, fmt.Errorf("%w: a listing without end", escrow.ErrCorrupt)
		}
		if err := a.call(ctx, "ListSecretVersionIds", req, &got); err != nil {
			return nil, err
		}
		for _, v := range got.Versions {
			if !awsVersionID(v.VersionID) {
				return nil, fmt.Errorf("%w: the store speaks of version %q", escrow.ErrCorrupt, clip(v.VersionID))
			}
			d := dated{a.copy(s, v), 1}
			if slices.Contains(v.VersionStages, awsCurrent) {
				d.current = 0 // what `latest` is, whenever it was made
			}
			if about.DeletedDate != nil {
				d.Unreadable = awsDeleted(*about.DeletedDate)
			}
			list = append(list, d)
		}
		if got.NextToken == "" {
			break
		}
		req["NextToken"] = got.NextToken
	}
	slices.SortFunc(list, func(x, y dated) int {
		return cmp.Or(cmp.Compare(x.current, y.current), y.Created.Compare(x.Created), cmp.Compare(x.ID, y.ID))
	})
	var copies []escrow.Copy
	for _, d := range slices.CompactFunc(list, func(x, y dated) bool { return x.ID == y.ID }) {
		copies = append(copies, d.Copy)
	}
	return copies, nil
}

func awsDeleted(when float64) string {
	return fmt.Sprintf("the secret was deleted, and is destroyed for good some days after %s: aws secretsmanager restore-secret", printable.Time(awsTime(when)))
}

func awsVersionID(id string) bool {
	return len(id) >= awsVersionMin && len(id) <= awsVersionMax && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	})
}

func (a *AWS) copy(s escrow.Shelf, v awsVersion) escrow.Copy {
	c := escrow.Copy{Escrow: a.o.Name, Shelf: s, ID: string(s) + "/" + v.VersionID, Created: awsTime(v.CreatedDate)}
	c.Fingerprint, c.Part = awsClaim(v.VersionStages)
	return c
}

// Fetch needs secretsmanager:GetSecretValue.
func (a *AWS) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	s, id, _ := strings.Cut(c.ID, "/")
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(c.ID), a.o.Secret, err)
	}
	if !slices.Contains(escrow.Shelves[:], escrow.Shelf(s)) || !awsVersionID(id) {
		return fail(escrow.ErrGone)
	}
	v, err := a.get(ctx, escrow.Shelf(s), id)
	if errors.Is(err, errNoValue) {
		err = escrow.ErrGone
	}
	if err != nil {
		return fail(err)
	}
	k, enc, err := a.key(v)
	if err != nil {
		return fail(err)
	}
	if fp, _ := awsClaim(v.VersionStages); fp != "" && fp != k.Fingerprint() {
		_, _, err = fail(&escrow.MisnamedError{Says: fp, Holds: k.Fingerprint()})
	}
	return k, enc, err
}

// FetchLatest needs secretsmanager:GetSecretValue, and no other.
func (a *AWS) FetchLatest(ctx context.Context) (escrow.Copy, key.Key, key.Encoding, error) {
	fail := func(err error) (escrow.Copy, key.Key, key.Encoding, error) {
		return escrow.Copy{}, key.Key{}, "", fmt.Errorf("cannot read %s: %w", a.o.Secret, err)
	}
	v, err := a.get(ctx, escrow.Current, "")
	switch {
	case errors.Is(err, escrow.ErrDenied): // listing may be granted all the same
		return fail(fmt.Errorf("%w: %w", escrow.ErrUnreadable, err))
	case err != nil:
		return fail(err)
	}
	k, enc, err := a.key(v)
	if err != nil {
		return fail(err)
	}
	if fp, _ := awsClaim(v.VersionStages); fp != "" && fp != k.Fingerprint() {
		defer k.Wipe() // who may list gets it by its id
		return fail(&escrow.MisnamedError{Says: fp, Holds: k.Fingerprint()})
	}
	return escrow.Copy{Escrow: a.o.Name, ID: string(escrow.Current) + "/" + v.VersionID, Shelf: escrow.Current}, k, enc, nil
}

// key reads a version: SecretString as a value of Vault is read, SecretBinary as it is.
func (a *AWS) key(v awsVersion) (key.Key, key.Encoding, error) {
	if v.SecretString == nil {
		return a.seal.key(v.SecretBinary)
	}
	return a.seal.text(*v.SecretString)
}

// same tells whether a version is what a Save of k would store.
func (a *AWS) same(v awsVersion, k key.Key) bool {
	if fp, _ := awsClaim(v.VersionStages); fp != "" && fp != k.Fingerprint() {
		return false // labelled as another
	}
	if v.SecretString == nil {
		return a.seal.same(v.SecretBinary, k)
	}
	return a.seal.sameText(*v.SecretString, k)
}

// get reads one version, by its id or, "", the current one. errNoValue says that the
// secret is there and the version is not; ErrNoPlace, that the secret is not.
func (a *AWS) get(ctx context.Context, s escrow.Shelf, id string) (awsVersion, error) {
	req := map[string]any{"SecretId": a.secret(s)}
	if id != "" {
		req["VersionId"] = id
	} else {
		req["VersionStage"] = awsCurrent
	}
	var v awsVersion
	if err := a.call(ctx, "GetSecretValue", req, &v); err != nil {
		return awsVersion{}, err
	}
	if !awsVersionID(v.VersionID) || id != "" && v.VersionID != id || v.SecretString == nil && v.SecretBinary == nil {
		return awsVersion{}, fmt.Errorf("%w: the store answers with version %q", escrow.ErrCorrupt, clip(v.VersionID))
	}
	return v, nil
}

func (a *AWS) describe(ctx context.Context, s escrow.Shelf) (awsDescription, error) {
	var about awsDescription
	err := a.call(ctx, "DescribeSecret", map[string]any{"SecretId": a.secret(s)}, &about)
	return about, err
}

// Init makes the two secrets. It needs secretsmanager:DescribeSecret, and where one is
// missing :CreateSecret.
func (a *AWS) Init(ctx context.Context) error {
	for _, s := range escrow.Shelves {
		about, err := a.describe(ctx, s)
		if errors.Is(err, escrow.ErrNoPlace) && !a.unexpanded() {
			err = a.call(ctx, "CreateSecret", map[string]any{
				"Name": a.secret(s), "ClientRequestToken": rand.Text() + rand.Text(),
				"Description": "copies of a containarium master key, kept by keyguard: each version is one",
				"Tags":        []map[string]string{{"Key": managedBy, "Value": keyguard}},
			}, nil)
			if errors.Is(err, errExists) {
				err = nil // somebody else was faster
			}
		} else if err == nil && about.DeletedDate != nil {
			err = fmt.Errorf("%w: %s --secret-id %s", escrow.ErrUnreadable, awsDeleted(*about.DeletedDate), a.secret(s))
		}
		if err != nil {
			return fmt.Errorf("cannot initialise %s: %w", a.secret(s), err)
		}
	}
	return nil
}

// Save needs secretsmanager:GetSecretValue, :DescribeSecret and :PutSecretValue.
func (a *AWS) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s: %w", a.secret(s), err)
	}
	if !slices.Contains(escrow.Shelves[:], s) {
		return fail(fmt.Errorf("no shelf %q", clip(string(s))))
	}
	data, err := a.seal.bytes(k)
	if err != nil {
		return fail(err)
	}
	defer clear(data)
	if err := ctx.Err(); err != nil { // select takes either where both can go on
		return fail(contextError(err))
	}
	select {
	case a.saving <- struct{}{}:
		defer func() { <-a.saving }()
	case <-ctx.Done():
		return fail(contextError(ctx.Err()))
	}
	top, found, err := a.stored(ctx, s, k)
	if err != nil {
		return fail(err)
	}
	if found.VersionID == "" {
		if found, err = a.put(ctx, s, k, top, data); err != nil {
			return fail(err)
		}
	}
	c := a.copy(s, found)
	c.Fingerprint, c.Part = k.Fingerprint(), a.seal.part
	if found.SecretString != nil || found.SecretBinary != nil {
		return c, nil // it was compared just now
	}
	c.Created = time.Now().UTC()
	// A crash or an error from here on: stored, and the next Save finds it by comparing.
	back, err := a.get(ctx, s, found.VersionID)
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return c, fmt.Errorf("%s in %s: %w", c.ID, a.o.Secret, escrow.ErrUnverified)
	case err != nil:
		return fail(fmt.Errorf("reading back %s: %w", found.VersionID, err))
	case !a.same(back, k):
		return fail(fmt.Errorf("reading back %s: %w: other bytes", found.VersionID, escrow.ErrCorrupt))
	case s == escrow.Current && !slices.Contains(back.VersionStages, awsCurrent):
		return fail(fmt.Errorf("reading back %s: %w: somebody else took the label %s from it", found.VersionID, escrow.ErrRefused, awsCurrent))
	}
	c.Created = awsTime(back.CreatedDate)
	return c, nil
}

// stored looks for k on the shelf: the current version; in quarantine the one that is
// labelled so, too. The zero version means that it has to be added. top is the id of the
// current version.
func (a *AWS) stored(ctx context.Context, s escrow.Shelf, k key.Key) (top string, found awsVersion, err error) {
	v, err := a.get(ctx, s, "")
	switch {
	case err == nil && a.same(v, k):
		return v.VersionID, v, nil
	case err == nil:
		top = v.VersionID
	case isAny(err, errNoValue, escrow.ErrCorrupt): // nothing that could be compared
	case errors.Is(err, escrow.ErrDenied) && !a.unexpanded():
	default:
		return "", awsVersion{}, err
	}
	about, err := a.describe(ctx, s)
	if err != nil {
		return "", awsVersion{}, err
	}
	label := a.label(k)
	for id, stages := range about.VersionIDsToStages {
		if top == "" && slices.Contains(stages, awsCurrent) {
			top = id
		}
		if s == escrow.Quarantine && slices.Contains(stages, label) && awsVersionID(id) {
			v, err := a.get(ctx, s, id)
			if err == nil && a.same(v, k) {
				return top, v, nil
			}
			if err != nil && !isAny(err, errNoValue, escrow.ErrCorrupt, escrow.ErrDenied, escrow.ErrUnreadable) {
				return "", awsVersion{}, err
			}
		}
	}
	if !about.has(label) {
		err = about.room()
	}
	return top, awsVersion{}, err
}

// room is ErrFull where no further key can be labelled.
func (d awsDescription) room() error {
	n := d.labels()
	if n < awsLabels {
		return nil
	}
	return fmt.Errorf("%w: %d keys are labelled there, and AWS keeps no more; after making sure that old dumps need none of them, take a label off: aws secretsmanager update-secret-version-stage", escrow.ErrFull, n)
}

// replica is the region of the primary that a secret only mirrors, "" where it is one of its own.
func (a *AWS) replica(d awsDescription) string {
	if d.PrimaryRegion == a.o.Region {
		return ""
	}
	return d.PrimaryRegion
}

// Rehearse counts labels and looks for replicas, as far as secretsmanager:DescribeSecret is granted.
func (a *AWS) Rehearse(ctx context.Context) error {
	for _, s := range escrow.Shelves {
		about, err := a.describe(ctx, s)
		if err != nil {
			continue
		}
		if of := a.replica(about); of != "" {
			return fmt.Errorf("%s: %w: it is a replica of that in %s", a.secret(s), escrow.ErrRefused, clip(of))
		}
		if err := about.room(); err != nil {
			return fmt.Errorf("%s: %w", a.secret(s), err)
		}
	}
	return nil
}

// awsRounds is how often a key is put after one and the same version, each time that somebody
// has moved AWSCURRENT back to that one.
const awsRounds = 32

// put adds a version. Its id is made of the key, the shelf and the version before it: the
// same save again is the same version, and a key that comes back after another is a new one.
// Where that version is there and another is current, somebody moved the label back by
// hand: AWS takes the same save for done, and only a new version becomes current.
func (a *AWS) put(ctx context.Context, s escrow.Shelf, k key.Key, before string, data []byte) (awsVersion, error) {
	text := base64.StdEncoding.EncodeToString(data)
	for round := range awsRounds {
		m := hmac.New(sha256.New, k.UnsafeBytes())
		fmt.Fprintf(m, "keyguard version v1\x00%s\x00%s\x00%s", s, before, a.label(k))
		if round > 0 {
			fmt.Fprintf(m, "\x00%d", round)
		}
		token := hex.EncodeToString(m.Sum(nil))
		var made awsVersion
		err := a.call(ctx, "PutSecretValue", map[string]any{
			"SecretId": a.secret(s), "ClientRequestToken": token, "SecretString": text,
			"VersionStages": []string{awsCurrent, a.label(k)},
		}, &made)
		switch {
		case errors.Is(err, errExists), errors.Is(err, escrow.ErrUnreachable):
			// Sealing makes other bytes each time; or the answer was lost. Putting is not
			// repeated, looking is.
			v, again := a.get(ctx, s, token)
			if again != nil || !a.same(v, k) {
				return awsVersion{}, err
			}
			if s == escrow.Quarantine || slices.Contains(v.VersionStages, awsCurrent) {
				return v, nil
			}
			if errors.Is(err, escrow.ErrUnreachable) {
				return awsVersion{}, err // it is there from before, and is not the newest
			}
		case err != nil:
			return awsVersion{}, err
		case made.VersionStages == nil || slices.Contains(made.VersionStages, awsCurrent):
			return awsVersion{VersionID: token}, nil
		}
	}
	return awsVersion{}, fmt.Errorf("%w: somebody has moved the label %s back %d times", escrow.ErrRefused, awsCurrent, awsRounds)
}

// Codes that only some callers can give a meaning to; errExists is gcp.go's.
var errNoValue = fmt.Errorf("%w: the secret has no such value", escrow.ErrNoPlace)

// call makes one call with its own deadline and credentials, and turns the outcome into
// the contract's errors. Nothing is repeated, but once with fresh credentials where those
// from earlier were refused.
func (a *AWS) call(ctx context.Context, operation string, req map[string]any, answer any) error {
	if a.unexpanded() {
		return fmt.Errorf("%w: not initialised, %s still has to be expanded", escrow.ErrNoPlace, a.o.Secret)
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	defer clear(body)
	who, kept, err := a.creds.get(ctx)
	if err == nil {
		err = a.send(ctx, who, operation, body, answer)
		if errors.Is(err, escrow.ErrUnauthenticated) && !errors.Is(err, escrow.ErrClock) {
			a.creds.forget()
			if kept {
				if who, _, err = a.creds.get(ctx); err == nil {
					err = a.send(ctx, who, operation, body, answer)
				}
			}
		}
	}
	if err != nil && caller.Err() == context.Canceled {
		return caller.Err()
	}
	return err
}

func (a *AWS) send(ctx context.Context, who aws.Credentials, operation string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %s", escrow.ErrRefused, clip(err.Error()))
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "secretsmanager."+operation)
	r.Header.Set("User-Agent", "keyguard")
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, who, r, hex.EncodeToString(sum[:]), "secretsmanager", a.o.Region, time.Now()); err != nil {
		return fmt.Errorf("%w: cannot sign: %s", escrow.ErrUnauthenticated, clip(err.Error()))
	}
	resp, err := a.http.RoundTrip(r)
	if err != nil {
		return wireError(ctx, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, vaultMaxAnswer))
	defer clear(data)
	if err != nil {
		return wireError(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return awsSentinel(resp, data)
	}
	if answer == nil {
		return nil
	}
	// Every answer of these actions says of which secret it is, or is a list of them.
	var of struct {
		ARN, Name  string
		SecretList []json.RawMessage
	}
	if json.Unmarshal(data, answer) != nil || json.Unmarshal(data, &of) != nil || of.ARN == "" && of.Name == "" && of.SecretList == nil {
		return fmt.Errorf("%w: it is no answer as Secrets Manager's", escrow.ErrNotStore)
	}
	return nil
}

// awsSentinel maps the errors of the API
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html, and
// those of each action) to the contract's errors.
func awsSentinel(resp *http.Response, data []byte) error {
	var said struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
		Capital string `json:"Message"`
	}
	// A body that is not JSON is a proxy's, and says nothing.
	_ = json.Unmarshal(data, &said)
	_, kind, ok := strings.Cut(said.Type, "#")
	if !ok {
		kind = said.Type
	}
	text := cmp.Or(clip(cmp.Or(said.Message, said.Capital)), clip(kind), fmt.Sprintf("status %d", resp.StatusCode))
	wrap := func(err error) error { return fmt.Errorf("%w: %s", err, text) }
	switch kind {
	case "ResourceNotFoundException":
		if strings.Contains(text, "secret value") {
			return wrap(errNoValue)
		}
		return wrap(escrow.ErrNoPlace)
	case "InvalidRequestException":
		if strings.Contains(text, "deletion") || strings.Contains(text, "deleted") {
			return fmt.Errorf("%w; it can be restored: aws secretsmanager restore-secret", wrap(escrow.ErrUnreadable))
		}
		return wrap(escrow.ErrRefused)
	case "DecryptionFailure":
		return fmt.Errorf("%w; enable its KMS key", wrap(escrow.ErrUnreadable))
	case "ResourceExistsException":
		return fmt.Errorf("%w (%w)", wrap(escrow.ErrRefused), errExists)
	case "LimitExceededException":
		return wrap(escrow.ErrFull)
	case "ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException":
		return wrap(escrow.ErrRateLimited)
	case "AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired":
		return wrap(escrow.ErrDenied)
	case "InvalidSignatureException", "SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed":
		if clockWrong(resp.Header.Get("Date")) || strings.Contains(text, "Signature expired") || strings.Contains(text, "not yet current") || kind[0] == 'R' {
			return wrap(escrow.ErrClock)
		}
		return wrap(escrow.ErrUnauthenticated)
	case "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException", "ExpiredToken", "IncompleteSignature",
		"IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException":
		return wrap(escrow.ErrUnauthenticated)
	case "":
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			return wrap(escrow.ErrNotStore) // something on the way answers
		}
	}
	switch {
	case resp.StatusCode >= 500:
		return wrap(escrow.ErrUnreachable)
	case resp.StatusCode == http.StatusTooManyRequests:
		return wrap(escrow.ErrRateLimited)
	}
	return wrap(escrow.ErrRefused)
}
