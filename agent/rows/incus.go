package rows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Why incus could not say where the database is.
var (
	ErrIncus     = errors.New("incus cannot be asked")
	ErrStopped   = errors.New("the database's container is not running")
	ErrNoAddress = errors.New("the database's container has no IPv4 address")
	ErrSeveral   = errors.New("several running containers look like the database's")
	ErrRemains   = errors.New("there is no container for the database, but something of one is left")
)

const (
	containerRole = "core-postgres"
	containerName = "containarium-core-postgres"
	// incusTimeout bounds the whole conversation: an incus that is starting accepts
	// connections and answers late.
	incusTimeout = 3 * time.Second
	// incusAnswer bounds one answer, in bytes. A thousand instances are about 4 MiB.
	incusAnswer = 64 << 20
)

// instance and the others are what is read of the REST API's objects
// (https://linuxcontainers.org/incus/docs/main/rest-api-spec).
type instance struct {
	Name    string            `json:"name"`
	Project string            `json:"project"`
	Status  string            `json:"status"`
	Config  map[string]string `json:"config"`
}

func (i instance) hasRole() bool { return i.Config["user.containarium.role"] == containerRole }

// String is one printable line, as whoever makes containers names them (law 10).
func (i instance) String() string {
	if i.Project == "" || i.Project == "default" {
		return printable.Line(i.Name)
	}
	return printable.Line(i.Name + " of project " + i.Project)
}

type instanceState struct {
	Network map[string]struct {
		Addresses []struct {
			Family  string `json:"family"`
			Address string `json:"address"`
			Scope   string `json:"scope"`
		} `json:"addresses"`
	} `json:"network"`
}

type pool struct {
	Name string `json:"name"`
}

type volume struct {
	Name   string   `json:"name"`
	UsedBy []string `json:"used_by"`
}

// askIncus finds the container that the daemon would use: running, with the role, else
// with the name.
func (o LocateOptions) askIncus(ctx context.Context, s source) (Location, error) {
	ctx, cancel := context.WithTimeout(ctx, incusTimeout)
	defer cancel()
	c, err := o.dialIncus(ctx)
	if err != nil {
		return Location{}, err
	}
	defer c.http.CloseIdleConnections()

	var all []instance
	if err := c.get(ctx, "/1.0/instances?recursion=1&all-projects=true", &all); err != nil {
		return Location{}, err
	}
	var ours, running []instance
	for _, i := range all {
		if i.Name == "" || i.Status == "" {
			return Location{}, fmt.Errorf("%w: an instance without name or status", ErrIncus)
		}
		if i.hasRole() || i.Name == containerName {
			ours = append(ours, i)
			if i.Status == "Running" {
				running = append(running, i)
			}
		}
	}
	if len(ours) == 0 {
		return o.nothing(ctx, c)
	}
	if slices.ContainsFunc(running, instance.hasRole) {
		running = slices.DeleteFunc(running, func(i instance) bool { return !i.hasRole() })
	}
	switch len(running) {
	case 0:
		return Location{}, fmt.Errorf("%w: %s is %s", ErrStopped, ours[0], printable.Line(strings.ToLower(ours[0].Status)))
	case 1:
	default:
		return Location{}, fmt.Errorf("%w: %s and %s", ErrSeveral, running[0], running[1])
	}
	chosen := running[0]
	address, err := c.address(ctx, chosen)
	if err != nil {
		return Location{}, err
	}
	password, err := s.containerPassword()
	if err != nil {
		return Location{}, err
	}
	l := Location{URL: containerURL(address, password), From: "incus, container " + chosen.String()}
	for _, i := range ours {
		if i.Name != chosen.Name || i.Project != chosen.Project {
			l.Rival = "container " + i.String()
		}
	}
	return l, nil
}

// nothing says Absent only after having looked everywhere: a volume without container,
// or a data directory of a pool that this incus does not know yet (boot disk rebuilt,
// data disk kept), may hold rows.
func (o LocateOptions) nothing(ctx context.Context, c *incus) (Location, error) {
	var pools []pool
	if err := c.get(ctx, "/1.0/storage-pools?recursion=1", &pools); err != nil {
		return Location{}, err
	}
	for _, p := range pools {
		if p.Name == "" {
			return Location{}, fmt.Errorf("%w: a pool without name", ErrIncus)
		}
		var volumes []volume
		path := "/1.0/storage-pools/" + url.PathEscape(p.Name) + "/volumes?recursion=1&all-projects=true"
		if err := c.get(ctx, path, &volumes); err != nil {
			return Location{}, err
		}
		for _, v := range volumes {
			if v.Name == "" {
				return Location{}, fmt.Errorf("%w: a volume without name in pool %s", ErrIncus, printable.Line(p.Name))
			}
			if strings.Contains(v.Name, containerRole) || strings.Contains(strings.Join(v.UsedBy, " "), containerRole) {
				return Location{}, fmt.Errorf("%w: volume %s in pool %s", ErrRemains, printable.Line(v.Name), printable.Line(p.Name))
			}
		}
	}
	dir := o.DataDir
	if dir == "" {
		dir = "/mnt/incus-data"
	}
	what, err := firstIn(dir)
	if err != nil {
		return Location{}, fmt.Errorf("cannot tell whether %s is empty: %w", dir, err)
	}
	if what != "" {
		return Location{}, fmt.Errorf("%w: %s in %s", ErrRemains, printable.Line(what), dir)
	}
	return Location{
		From: "incus", Absent: true,
		Why: fmt.Sprintf("incus has no database container and no volume of one, and %s is missing or empty", dir),
	}, nil
}

// firstIn names something in dir, or "" where dir is missing or empty. An empty
// lost+found is part of an empty file system (mke2fs(8)).
func firstIn(dir string) (string, error) {
	entries, err := crew.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" && e.IsDir() {
			if what, err := firstIn(filepath.Join(dir, e.Name())); err != nil || what == "" {
				if err != nil {
					return "", err
				}
				continue
			}
		}
		return e.Name(), nil
	}
	return "", nil
}

// incus speaks to one daemon over its unix socket.
type incus struct{ http *http.Client }

// dialIncus takes the first socket that somebody listens on.
func (o LocateOptions) dialIncus(ctx context.Context) (*incus, error) {
	sockets := o.IncusSockets
	if sockets == nil {
		sockets = []string{"/var/lib/incus/unix.socket", "/run/incus/unix.socket"}
	}
	var why error
	for _, path := range sockets {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			if why == nil || !errors.Is(err, fs.ErrNotExist) {
				why = err
			}
			continue
		}
		c.Close()
		return &incus{http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
		}}}, nil
	}
	switch {
	case why == nil:
		return nil, fmt.Errorf("%w: no socket is named", ErrIncus)
	case errors.Is(why, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no socket %s", ErrIncus, strings.Join(sockets, " or "))
	case errors.Is(why, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: it is not running", ErrIncus)
	}
	return nil, fmt.Errorf("%w: %w", ErrIncus, why)
}

// get reads the metadata of a synchronous answer into v. It accepts nothing but what
// the API promises: an answer that is not understood is no answer.
func (c *incus) get(ctx context.Context, path string, v any) error {
	fail := func(err error) error {
		if ctx.Err() == context.DeadlineExceeded {
			err = ErrTimeout
		}
		what, _, _ := strings.Cut(path, "?")
		return fmt.Errorf("%w for %s: %w", ErrIncus, what, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://incus"+path, nil)
	if err != nil {
		return fail(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fail(errors.Unwrap(err)) // *url.Error, whose URL says nothing
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, incusAnswer))
	if err != nil {
		return fail(err)
	}
	var answer struct {
		Type     string          `json:"type"`
		Status   int             `json:"status_code"`
		Error    string          `json:"error"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fail(fmt.Errorf("status %d and no JSON", res.StatusCode))
	}
	switch {
	case res.StatusCode == http.StatusForbidden:
		return fail(ErrDenied)
	case answer.Type == "error":
		return fail(fmt.Errorf("it answers %q (%d)", printable.Line(answer.Error), res.StatusCode))
	case res.StatusCode != http.StatusOK || answer.Type != "sync" || answer.Status != http.StatusOK:
		return fail(fmt.Errorf("status %d and no answer", res.StatusCode))
	}
	if err := json.Unmarshal(answer.Metadata, v); err != nil {
		return fail(errors.New("an answer of another form"))
	}
	return nil
}

// address is the container's IPv4 address: that of eth0, as incus' own profile names
// it, else of the first other interface that reaches beyond the container.
func (c *incus) address(ctx context.Context, i instance) (string, error) {
	query := url.Values{"project": {i.Project}}
	if i.Project == "" {
		query.Set("project", "default")
	}
	var state instanceState
	if err := c.get(ctx, "/1.0/instances/"+url.PathEscape(i.Name)+"/state?"+query.Encode(), &state); err != nil {
		return "", err
	}
	var names []string
	for name := range state.Network {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if (a == "eth0") != (b == "eth0") {
			if a == "eth0" {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		for _, a := range state.Network[name].Addresses {
			if ip := net.ParseIP(a.Address); a.Family == "inet" && a.Scope == "global" && ip.To4() != nil {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNoAddress, i)
}
