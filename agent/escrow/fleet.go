package escrow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
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

// joined makes one ErrLeftOpen of several errors, on one line, of which each text stands once.
func joined(errs []error) error {
	var texts []string
	for _, err := range errs {
		if !slices.Contains(texts, err.Error()) {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	const most = 3
	if more := len(texts) - most; more > 0 {
		texts = append(texts[:most], fmt.Sprintf("and %d more", more))
	}
	return &relayed{text: strings.Join(texts, "; "), is: append(errs, ErrLeftOpen)}
}

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

// FleetOptions say how a store is asked for many hosts.
type FleetOptions struct {
	// Wait holds each call until it may be made, nil for at once.
	Wait func(context.Context) error
	// Assets asks Google's Cloud Asset Inventory for everything at once, instead of the
	// store host by host.
	Assets bool
	// AssetURL and PolicyURL are Google's Cloud Asset Inventory and Resource Manager, "" for
	// the real ones where the store itself is the real one.
	AssetURL, PolicyURL string
}

func (o FleetOptions) wait(ctx context.Context) error {
	if o.Wait == nil {
		return nil
	}
	return o.Wait(ctx)
}

// ErrNotListed: the store tells of a host that is asked for, and not which hosts it has.
var ErrNotListed = errors.New("the store does not list its hosts")

// hostWord stands for the host in the names of a configuration.
const hostWord = "{hostname}"

// errNoHost is a name that is the same for every host.
var errNoHost = fmt.Errorf("%w: %s does not stand in the name, and so it is one host's", ErrRefused, hostWord)

func forHost(pattern, host string) string { return strings.ReplaceAll(pattern, hostWord, host) }

// hostIn reads a host's name out of one that was made by pattern.
func hostIn(pattern, name string) (string, bool) {
	before, after, ok := strings.Cut(pattern, hostWord)
	if !ok || !strings.HasPrefix(name, before) {
		return "", false
	}
	end := len(name) - len(after)
	if next, _, more := strings.Cut(after, hostWord); more {
		i := strings.Index(name[len(before):], next)
		if i < 0 {
			return "", false
		}
		end = len(before) + i
	} else if end < len(before) {
		return "", false
	}
	host := name[len(before):end]
	return host, host != "" && forHost(pattern, host) == name
}

// show sums up a listing: current before quarantine, newest first.
func show(copies []Copy) (s Shown) {
	for i, c := range copies {
		if c.Shelf == Quarantine {
			if s.Quarantine == nil {
				s.Quarantine = &copies[i]
			}
			continue
		}
		if s.Current == nil {
			s.Current = &copies[i]
		}
		if c.Fingerprint != "" && !slices.Contains(s.Keys, c.Fingerprint) {
			s.Keys = append(s.Keys, c.Fingerprint)
		}
	}
	return s
}

// each is a Fleet made of single escrows, which list without reading a value.
type each struct {
	name  string
	place Place
	lags  bool
	open  func(host string) (Reader, error)
	hosts func(context.Context) (map[string]*Shown, error)
	o     FleetOptions

	mu     sync.Mutex
	domain string // mu: what the listing showed them to be lost with, "" for what place says
}

func (e *each) Name() string { return e.name }

func (e *each) Place() Place {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.place
	p.Domain = cmp.Or(e.domain, p.Domain)
	return p
}

func (e *each) Lags() bool   { return e.lags }
func (e *each) Close() error { return nil }

func (e *each) NamesKeys() bool { return true }

func (e *each) Hosts(ctx context.Context) (map[string]*Shown, error) {
	if e.hosts == nil {
		return nil, ErrNotListed
	}
	return e.hosts(ctx)
}

func (e *each) Look(ctx context.Context, host string) (Shown, error) {
	r, err := e.open(host)
	if err != nil {
		return Shown{}, err
	}
	if err := e.o.wait(ctx); err != nil {
		return Shown{}, err
	}
	copies, err := r.List(ctx)
	if errors.Is(err, ErrNoPlace) {
		return Shown{Missing: true}, nil
	}
	if err != nil {
		return Shown{}, err
	}
	return show(copies), nil
}

// NewDirectoryFleet looks at the directories of many hosts, on a file system that is
// mounted here: their names, and the names of the files in them.
func NewDirectoryFleet(o DirectoryOptions, f FleetOptions) (Fleet, error) {
	fail := func(err error) (Fleet, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	if _, stick, _ := parseStick(o.Path); stick {
		return fail(fmt.Errorf("%w: a stick is one machine's; name the directory where it is mounted", ErrRefused))
	}
	before, _, ok := strings.Cut(o.Path, hostWord)
	if !ok {
		return fail(errNoHost)
	}
	if _, err := NewDirectory(o); err != nil {
		return nil, err
	}
	// The hosts' own directories are those in the one above the word.
	above, rest := filepath.Dir(before+"x"), ""
	segment := strings.TrimPrefix(strings.TrimPrefix(o.Path, above), "/")
	segment, rest, _ = strings.Cut(segment, "/")
	e := &each{name: o.Name, o: f, place: Place{Kind: "directory", Where: o.Path, Domain: "the file system at " + above}}
	e.open = func(host string) (Reader, error) {
		one := o
		one.Path = forHost(o.Path, host)
		d, err := NewDirectory(one)
		return mounted{d, above}, err
	}
	e.hosts = func(ctx context.Context) (map[string]*Shown, error) {
		return crew.Within(above, func() (map[string]*Shown, error) {
			e.onDisks(above)
			entries, err := os.ReadDir(above)
			if err != nil {
				return nil, fmt.Errorf("cannot list %s: %w", above, notMounted(fileError(errors.Unwrap(err))))
			}
			all := map[string]*Shown{}
			for _, entry := range entries {
				host, ok := hostIn(segment, entry.Name())
				if !ok || !entry.IsDir() || host[0] == '.' || host == "lost+found" { // the file system's own
					continue
				}
				// What may not be looked into may be a host's.
				if _, err := os.Lstat(filepath.Join(above, entry.Name(), forHost(rest, host))); !errors.Is(err, fs.ErrNotExist) {
					all[host] = nil
				}
			}
			return all, ctx.Err()
		}, nil)
	}
	return e, nil
}

// onDisks finds out what a directory here is lost with. Where it cannot be told it is where
// the directory stands.
func (e *each) onDisks(dir string) {
	f, err := openDir(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return
	}
	defer f.Close()
	on, err := disks{sys: "/sys", proc: "/proc"}.under(f)
	if err != nil {
		return
	}
	domains := Examination{Disks: slices.Sorted(maps.Keys(on))}.Domains(e.place)
	for i, d := range domains { // a host's own disk may have the same name
		if strings.HasPrefix(d, "the disk ") {
			domains[i] = d + " here"
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.domain = strings.Join(domains, ", ")
}

// mounted is a directory on a file system that may hang, as one by NFS does whose server is
// gone: whoever lists it walks away.
type mounted struct {
	*Directory
	at string // where the file system is
}

func (m mounted) List(ctx context.Context) ([]Copy, error) {
	return crew.Within(m.at, func() ([]Copy, error) { return m.Directory.List(ctx) }, nil)
}

// NewCommandFleet asks a password manager, or programs of the operator's, for one host
// after the other.
func NewCommandFleet(o CommandOptions, f FleetOptions) (Fleet, error) {
	texts := slices.Concat([]string{o.Path}, o.List)
	if !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, hostWord) }) {
		return nil, fmt.Errorf("escrow %s: %w", o.Name, errNoHost)
	}
	open := func(host string) (*Command, error) {
		one := o
		one.Path = forHost(o.Path, host)
		for _, command := range []*[]string{&one.Save, &one.List, &one.Fetch} {
			*command = slices.Clone(*command)
			for i := range *command {
				(*command)[i] = forHost((*command)[i], host)
			}
		}
		return NewCommand(one)
	}
	const example = "some-host"
	one, err := open(example)
	if err != nil {
		return nil, err
	}
	place := one.Place()
	place.Where = strings.ReplaceAll(place.Where, example, hostWord)
	return &each{name: o.Name, o: f, place: place, open: func(host string) (Reader, error) { return open(host) }}, nil
}

// awsListed is how many secrets one answer of ListSecrets has, the API's highest.
const awsListed = 100

// NewAWSFleet looks at the secrets of many hosts. ListSecrets tells which there are, and
// may be five minutes behind
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html); what
// versions a secret has is asked for each. It needs secretsmanager:ListSecrets,
// :DescribeSecret and :ListSecretVersionIds.
func NewAWSFleet(o AWSOptions, f FleetOptions) (Fleet, error) {
	before, _, ok := strings.Cut(o.Secret, hostWord)
	if !ok {
		return nil, fmt.Errorf("escrow %s: %w", o.Name, errNoHost)
	}
	pattern := o.Secret
	o.Secret = "any" // the calls that are for all of them name none
	a, err := NewAWS(o)
	if err != nil {
		return nil, err
	}
	place := a.Place()
	place.Where = pattern + " in " + o.Region
	open := func(host string) (Reader, error) {
		one := *a // the same connections and credentials
		one.o.Secret = forHost(pattern, host)
		return &one, nil
	}
	hosts := func(ctx context.Context) (map[string]*Shown, error) {
		all := map[string]*Shown{}
		req := map[string]any{"MaxResults": awsListed, "IncludePlannedDeletion": true}
		if before != "" {
			req["Filters"] = []map[string]any{{"Key": "name", "Values": []string{before}}}
		}
		for range maxListed {
			var got struct {
				SecretList []struct{ Name string }
				NextToken  string
			}
			if err := f.wait(ctx); err != nil {
				return nil, err
			}
			if err := a.call(ctx, "ListSecrets", req, &got); err != nil {
				return nil, fmt.Errorf("cannot list the secrets in %s: %w", o.Region, err)
			}
			for _, s := range got.SecretList {
				if host, ok := hostIn(pattern, s.Name); ok {
					all[host] = nil
				}
			}
			if got.NextToken == "" {
				return withoutQuarantines(all), nil
			}
			req["NextToken"] = got.NextToken
		}
		return nil, fmt.Errorf("cannot list the secrets in %s: %w: a listing without end", o.Region, ErrCorrupt)
	}
	one := &each{name: o.Name, o: f, place: place, lags: true, open: open, hosts: hosts}
	return &awsFleet{one, a, pattern}, nil
}

// withoutQuarantines takes out the names that are only the quarantine of another host:
// where the host stands at the end of a name, the shelf's word follows it.
func withoutQuarantines(all map[string]*Shown) map[string]*Shown {
	for host := range all {
		if base, ok := strings.CutSuffix(host, quarantined); ok {
			if _, there := all[base]; there {
				delete(all, host)
			}
		}
	}
	return all
}
