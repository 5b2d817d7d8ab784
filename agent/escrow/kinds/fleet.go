package kinds

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
	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

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
	return &relayed{text: strings.Join(texts, "; "), is: append(errs, escrow.ErrLeftOpen)}
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

// hostWord stands for the host in the names of a configuration.
const hostWord = "{hostname}"

// errNoHost is a name that is the same for every host.
var errNoHost = fmt.Errorf("%w: %s does not stand in the name, and so it is one host's", escrow.ErrRefused, hostWord)

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
func show(copies []escrow.Copy) (s escrow.Shown) {
	for i, c := range copies {
		if c.Shelf == escrow.Quarantine {
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
	place escrow.Place
	lags  bool
	open  func(host string) (escrow.Reader, error)
	hosts func(context.Context) (map[string]*escrow.Shown, error)
	o     FleetOptions

	mu     sync.Mutex
	domain string // mu: what the listing showed them to be lost with, "" for what place says
}

func (e *each) Name() string { return e.name }

func (e *each) Place() escrow.Place {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.place
	p.Domain = cmp.Or(e.domain, p.Domain)
	return p
}

func (e *each) Lags() bool   { return e.lags }
func (e *each) Close() error { return nil }

func (e *each) NamesKeys() bool { return true }

func (e *each) Hosts(ctx context.Context) (map[string]*escrow.Shown, error) {
	if e.hosts == nil {
		return nil, escrow.ErrNotListed
	}
	return e.hosts(ctx)
}

func (e *each) Look(ctx context.Context, host string) (escrow.Shown, error) {
	r, err := e.open(host)
	if err != nil {
		return escrow.Shown{}, err
	}
	if err := e.o.wait(ctx); err != nil {
		return escrow.Shown{}, err
	}
	copies, err := r.List(ctx)
	if errors.Is(err, escrow.ErrNoPlace) {
		return escrow.Shown{Missing: true}, nil
	}
	if err != nil {
		return escrow.Shown{}, err
	}
	return show(copies), nil
}

// NewDirectoryFleet looks at the directories of many hosts, on a file system that is
// mounted here: their names, and the names of the files in them.
func NewDirectoryFleet(o DirectoryOptions, f FleetOptions) (escrow.Fleet, error) {
	fail := func(err error) (escrow.Fleet, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	if _, stick, _ := parseStick(o.Path); stick {
		return fail(fmt.Errorf("%w: a stick is one machine's; name the directory where it is mounted", escrow.ErrRefused))
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
	e := &each{name: o.Name, o: f, place: escrow.Place{Kind: "directory", Where: o.Path, Domain: "the file system at " + above}}
	e.open = func(host string) (escrow.Reader, error) {
		one := o
		one.Path = forHost(o.Path, host)
		d, err := NewDirectory(one)
		return mounted{d, above}, err
	}
	e.hosts = func(ctx context.Context) (map[string]*escrow.Shown, error) {
		return crew.Within(above, func() (map[string]*escrow.Shown, error) {
			e.onDisks(above)
			entries, err := os.ReadDir(above)
			if err != nil {
				return nil, fmt.Errorf("cannot list %s: %w", above, notMounted(fileError(errors.Unwrap(err))))
			}
			all := map[string]*escrow.Shown{}
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
	domains := escrow.Examination{Disks: slices.Sorted(maps.Keys(on))}.Domains(e.place)
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

func (m mounted) List(ctx context.Context) ([]escrow.Copy, error) {
	return crew.Within(m.at, func() ([]escrow.Copy, error) { return m.Directory.List(ctx) }, nil)
}

// NewCommandFleet asks a password manager, or programs of the operator's, for one host
// after the other.
func NewCommandFleet(o CommandOptions, f FleetOptions) (escrow.Fleet, error) {
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
	return &each{name: o.Name, o: f, place: place, open: func(host string) (escrow.Reader, error) { return open(host) }}, nil
}

// awsListed is how many secrets one answer of ListSecrets has, the API's highest.
const awsListed = 100

// NewAWSFleet looks at the secrets of many hosts. ListSecrets tells which there are, and
// may be five minutes behind
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_ListSecrets.html); what
// versions a secret has is asked for each. It needs secretsmanager:ListSecrets,
// :DescribeSecret and :ListSecretVersionIds.
func NewAWSFleet(o AWSOptions, f FleetOptions) (escrow.Fleet, error) {
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
	open := func(host string) (escrow.Reader, error) {
		one := *a // the same connections and credentials
		one.o.Secret = forHost(pattern, host)
		return &one, nil
	}
	hosts := func(ctx context.Context) (map[string]*escrow.Shown, error) {
		all := map[string]*escrow.Shown{}
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
		return nil, fmt.Errorf("cannot list the secrets in %s: %w: a listing without end", o.Region, escrow.ErrCorrupt)
	}
	one := &each{name: o.Name, o: f, place: place, lags: true, open: open, hosts: hosts}
	return &awsFleet{one, a, pattern}, nil
}

// withoutQuarantines takes out the names that are only the quarantine of another host:
// where the host stands at the end of a name, the shelf's word follows it.
func withoutQuarantines(all map[string]*escrow.Shown) map[string]*escrow.Shown {
	for host := range all {
		if base, ok := strings.CutSuffix(host, quarantined); ok {
			if _, there := all[base]; there {
				delete(all, host)
			}
		}
	}
	return all
}
