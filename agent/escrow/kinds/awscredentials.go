package kinds

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// The kinds of AWSCredentials.
const (
	AWSFile        = "file"         // an access key in a shared credentials file
	AWSEnvironment = "environment"  // AWS_ACCESS_KEY_ID and what goes with it
	AWSWebIdentity = "web-identity" // a token that STS takes for a role's credentials
	AWSContainer   = "container"    // the agent of ECS or EKS
	AWSProcess     = "process"      // a program that prints them
	AWSInstance    = "instance"     // the machine's role, by its metadata service
)

// AWSCredentials say who asks: by exactly one way, and no other is tried.
type AWSCredentials struct {
	Kind string
	// File is, for AWSFile, a shared credentials file, and Profile the profile in it, ""
	// for "default".
	File, Profile string
	// Role and TokenFile are for AWSWebIdentity, "" for what AWS_ROLE_ARN and
	// AWS_WEB_IDENTITY_TOKEN_FILE say.
	Role, TokenFile string
	// Process is, for AWSProcess, the program and its arguments.
	Process []string
	// STS and Metadata are host:port of fakes, spoken to in the clear on loopback.
	STS, Metadata string
}

func (c AWSCredentials) String() string {
	switch {
	case c.Kind == AWSFile && c.Profile != "":
		return "profile " + c.Profile + " in " + c.File
	case c.Kind == AWSFile:
		return c.File
	case c.Kind == AWSWebIdentity && c.Role != "":
		return c.Role
	}
	return "credentials by " + c.Kind
}

func (c AWSCredentials) check() error {
	switch c.Kind {
	case AWSFile:
		if c.File == "" {
			return errors.New("credentials by file need the file")
		}
	case AWSProcess:
		if len(c.Process) == 0 {
			return errors.New("credentials by process need the program")
		}
	case AWSEnvironment, AWSWebIdentity, AWSContainer, AWSInstance:
	default:
		return fmt.Errorf("credentials are named: %s", strings.Join([]string{AWSFile, AWSEnvironment, AWSWebIdentity, AWSContainer, AWSProcess, AWSInstance}, ", "))
	}
	return nil
}

const (
	// awsMetadataHost is the instance metadata service, version 2
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html).
	awsMetadataHost = "169.254.169.254"
	// awsContainerHost is where AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is relative to.
	awsContainerHost = "169.254.170.2"
)

// awsCredentials gets credentials, and keeps them while they are good. Failures are not kept.
type awsCredentials struct {
	o      AWSCredentials
	region string
	// asking holds one place: calls in parallel wait for one answer and share it.
	asking chan struct{}

	mu   sync.Mutex
	kept aws.Credentials // mu
}

func newAWSCredentials(o AWSCredentials, region string) *awsCredentials {
	return &awsCredentials{o: o, region: region, asking: make(chan struct{}, 1)}
}

// get returns credentials, and whether they are from earlier.
func (c *awsCredentials) get(ctx context.Context) (aws.Credentials, bool, error) {
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return aws.Credentials{}, false, contextError(ctx.Err())
	}
	c.mu.Lock()
	kept := c.kept
	c.mu.Unlock()
	if kept.HasKeys() && (!kept.CanExpire || time.Until(kept.Expires) > tokenSpare) {
		return kept, true, nil
	}
	got, err := c.ask(ctx)
	if err == nil && !got.HasKeys() {
		err = fmt.Errorf("%w: there is no access key", escrow.ErrUnauthenticated)
	}
	if err != nil {
		return aws.Credentials{}, false, fmt.Errorf("%s: %w", c.o, err)
	}
	c.mu.Lock()
	c.kept = got
	c.mu.Unlock()
	return got, false, nil
}

// forget drops credentials that were refused.
func (c *awsCredentials) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = aws.Credentials{}
}

func (c *awsCredentials) ask(ctx context.Context) (aws.Credentials, error) {
	switch c.o.Kind {
	case AWSFile:
		return c.fromFile()
	case AWSEnvironment:
		return aws.Credentials{AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken: os.Getenv("AWS_SESSION_TOKEN")}, nil
	case AWSWebIdentity:
		return c.fromWebIdentity(ctx)
	case AWSContainer:
		return c.fromContainer(ctx)
	case AWSProcess:
		return c.fromProcess(ctx)
	}
	return c.fromInstance(ctx)
}

// fromFile reads a profile of a shared credentials file
// (https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html).
func (c *awsCredentials) fromFile() (got aws.Credentials, err error) {
	data, err := readSmall(c.o.File)
	if err != nil {
		return got, fmt.Errorf("%w: %w", escrow.ErrUnauthenticated, err)
	}
	defer clear(data)
	want, in := cmp.Or(c.o.Profile, "default"), false
	found := false
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if name, ok := strings.CutPrefix(line, "["); ok {
			in = strings.TrimSpace(strings.TrimSuffix(name, "]")) == want
			found = found || in
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !in || !ok || strings.HasPrefix(line, "#") {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "aws_access_key_id":
			got.AccessKeyID = value
		case "aws_secret_access_key":
			got.SecretAccessKey = value
		case "aws_session_token":
			got.SessionToken = value
		}
	}
	if !found {
		return got, fmt.Errorf("%w: it has no profile %q", escrow.ErrUnauthenticated, want)
	}
	return got, nil
}

// awsKeys is how container agents, the metadata service and programs tell credentials.
type awsKeys struct {
	Code            string
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	SessionToken    string
	Expiration      *time.Time
}

func readAWSKeys(data []byte) (aws.Credentials, error) {
	var k awsKeys
	if err := json.Unmarshal(data, &k); err != nil {
		return aws.Credentials{}, fmt.Errorf("%w: what was answered is not JSON", escrow.ErrUnauthenticated)
	}
	if k.Code != "" && k.Code != "Success" {
		return aws.Credentials{}, fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(k.Code))
	}
	got := aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: cmp.Or(k.Token, k.SessionToken)}
	if k.Expiration != nil {
		got.CanExpire, got.Expires = true, *k.Expiration
	}
	return got, nil
}

// fromProcess runs a program that prints credentials
// (https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html).
func (c *awsCredentials) fromProcess(ctx context.Context) (aws.Credentials, error) {
	out, err := run.Command(ctx, run.Spec{Path: c.o.Process[0], Args: c.o.Process[1:], MaxOutput: maxToken})
	defer clear(out)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return aws.Credentials{}, contextError(err)
	case err != nil:
		return aws.Credentials{}, fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(err.Error()))
	}
	return readAWSKeys(out)
}

// fromContainer asks the agent of ECS or EKS
// (https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html).
func (c *awsCredentials) fromContainer(ctx context.Context) (aws.Credentials, error) {
	where := os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if relative := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); relative != "" {
		where = "http://" + awsContainerHost + relative
	}
	u, err := url.Parse(where)
	switch {
	case err != nil || u.Host == "":
		return aws.Credentials{}, fmt.Errorf("%w: AWS_CONTAINER_CREDENTIALS_FULL_URI is not set", escrow.ErrUnauthenticated)
	case u.Scheme != "https" && !loopback(u.Hostname()) && u.Hostname() != awsContainerHost && u.Hostname() != "169.254.170.23":
		return aws.Credentials{}, fmt.Errorf("%w: %s would be asked in the clear", escrow.ErrUnauthenticated, u.Host)
	}
	token := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		data, err := readSmall(file)
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("%w: %s: %w", escrow.ErrUnauthenticated, file, err)
		}
		token = strings.TrimSpace(string(data))
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", token)
	}
	data, err := askAWS(ctx, http.MethodGet, where, header, metadataTimeout, "the container's agent")
	if err != nil {
		return aws.Credentials{}, err
	}
	return readAWSKeys(data)
}

// fromInstance asks the machine's metadata service, version 2 alone. Its first answer
// counts hops: out of a container a limit of 1 lets nothing through.
func (c *awsCredentials) fromInstance(ctx context.Context) (aws.Credentials, error) {
	host := "http://" + cmp.Or(c.o.Metadata, awsMetadataHost)
	const who = "the instance metadata service"
	token, err := askAWS(ctx, http.MethodPut, host+"/latest/api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"300"}}, metadataTimeout, who)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%w; in a container its hop limit has to be 2", err)
	}
	header := http.Header{"X-Aws-Ec2-Metadata-Token": {string(token)}}
	const roles = "/latest/meta-data/iam/security-credentials/"
	role, err := askAWS(ctx, http.MethodGet, host+roles, header, metadataTimeout, who)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%w; has the machine a role?", err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(role)), "\n")
	data, err := askAWS(ctx, http.MethodGet, host+roles+url.PathEscape(name), header, metadataTimeout, who)
	if err != nil {
		return aws.Credentials{}, err
	}
	return readAWSKeys(data)
}

// fromWebIdentity exchanges a token for a role's credentials
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html).
func (c *awsCredentials) fromWebIdentity(ctx context.Context) (aws.Credentials, error) {
	role, file := cmp.Or(c.o.Role, os.Getenv("AWS_ROLE_ARN")), cmp.Or(c.o.TokenFile, os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"))
	if role == "" || file == "" {
		return aws.Credentials{}, fmt.Errorf("%w: a role and a token file are needed", escrow.ErrUnauthenticated)
	}
	token, err := readSmall(file)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%w: %s: %w", escrow.ErrUnauthenticated, file, err)
	}
	defer clear(token)
	where := "https://sts." + c.region + "." + awsDomain(c.region) + "/"
	if c.o.STS != "" {
		where = "http://" + c.o.STS + "/"
	}
	form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {role},
		"RoleSessionName": {"keyguard"}, "WebIdentityToken": {strings.TrimSpace(string(token))}}
	data, err := postAWS(ctx, where, form)
	if err != nil {
		return aws.Credentials{}, err
	}
	var said struct {
		Response struct {
			Result struct {
				Credentials struct {
					AccessKeyID     string `json:"AccessKeyId"`
					SecretAccessKey string
					SessionToken    string
					Expiration      float64
				}
			} `json:"AssumeRoleWithWebIdentityResult"`
		} `json:"AssumeRoleWithWebIdentityResponse"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return aws.Credentials{}, fmt.Errorf("%w: STS did not answer in JSON", escrow.ErrUnauthenticated)
	}
	k := said.Response.Result.Credentials
	return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.SessionToken,
		CanExpire: true, Expires: awsTime(k.Expiration)}, nil
}

func postAWS(ctx context.Context, where string, form url.Values) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, where, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(err.Error()))
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	resp, err := (&http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, Protocols: http1()}).RoundTrip(r)
	if err != nil {
		return nil, wireError(ctx, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return nil, wireError(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		var said struct {
			Error struct{ Code, Message string }
		}
		_ = json.Unmarshal(data, &said) // what is none says nothing
		text := cmp.Or(clip(said.Error.Code+" "+said.Error.Message), fmt.Sprintf("status %d", resp.StatusCode))
		switch {
		case resp.StatusCode >= 500:
			return nil, fmt.Errorf("%w: STS: %s", escrow.ErrUnreachable, text)
		case said.Error.Code == "Throttling":
			return nil, fmt.Errorf("%w: STS: %s", escrow.ErrRateLimited, text)
		case clockWrong(resp.Header.Get("Date")):
			return nil, fmt.Errorf("%w: STS: %s", escrow.ErrClock, text)
		}
		return nil, fmt.Errorf("%w: STS: %s", escrow.ErrUnauthenticated, text)
	}
	return data, nil
}

// askAWS asks a service on this machine, which is one hop away or not there.
func askAWS(ctx context.Context, method, where string, header http.Header, patience time.Duration, who string) ([]byte, error) {
	own, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(own, method, where, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnauthenticated, clip(err.Error()))
	}
	r.Header = header
	resp, err := (&http.Transport{DisableKeepAlives: true, Protocols: http1()}).RoundTrip(r)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, contextError(ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%w: %s does not answer", escrow.ErrUnauthenticated, who)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s answers with status %d", escrow.ErrUnauthenticated, who, resp.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("%w: %s broke off", escrow.ErrUnauthenticated, who)
	}
	return data, nil
}
