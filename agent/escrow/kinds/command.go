package kinds

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// commandTimeout is for one run of a program: Bitwarden's takes two seconds to start.
	commandTimeout = 10 * time.Second
	// maxListing bounds what a program lists, in bytes. Bitwarden's lists whole entries.
	maxListing = 8 << 20
	// maxText bounds one entry: maxPayload in base64, with room for line ends and JSON.
	maxText = 2 * maxPayload

	// commandMarker is the entry that marks a place as ours: without it an empty listing
	// is that of another account, folder or host (law 6).
	commandMarker = "keyguard"
	commandReadme = `keyguard keeps copies of a containarium master key beside this entry.
It marks the place; leave it here. Each copy is base64: base64 -d > secrets.key
`
)

// CommandOptions say which programs keep the copies.
type CommandOptions struct {
	Name string // of the escrow
	// Preset is a password manager that is known: 1password, bitwarden or pass; "" where
	// Save, List and Fetch are given.
	Preset string
	// Path is what the names of a preset's entries begin with, `{hostname}` already expanded.
	Path string
	// Save, List and Fetch are programs and their arguments, see Command.
	Save, List, Fetch []string
	// EnvironmentFile has lines NAME=value for the programs. It is read at every run.
	EnvironmentFile string
	// Keyfile is where the key is, and AllowSameDisk takes it for granted that a password store
	// lies on its disk.
	Keyfile       string
	AllowSameDisk bool
	// SealTo are recipients as age(1) takes them; IdentityFiles let this host open what is sealed.
	SealTo        []string
	IdentityFiles []string
	// Part is the part of each key that is kept here, the zero PartOf for the whole key.
	Part escrow.PartOf
	// Timeout is for each run of a program; 0 is 10 s.
	Timeout time.Duration
}

// Command is an escrow behind programs: a password manager's own, or somebody's scripts.
//
// # The contract of save, list and fetch
//
// An entry has a name and a text. Names are "keyguard" (it marks the place),
// "current/<time>-<fingerprint>.key" and "quarantine/<time>-<fingerprint>.key", with
// ".age" behind it where the text is sealed; no two entries have the same.
//
//   - save NAME stores the text on its standard input, one line of base64, under a new name.
//   - list prints a name a line, and if it likes a tab and the time of the last change,
//     RFC 3339, by which entries that people made are sorted. Names that begin otherwise
//     are nobody's business. It prints all names or fails.
//   - fetch NAME prints the text, and nothing else.
//
// {name} in an argument is replaced by the name; where no argument has it, the name is
// the last one. Status 0 is success; of sysexits.h(3head) 77 means denied or not logged
// in, 66 no such entry, 75 try again later, 78 the place is not there, and any other that
// the store failed. What a fetch ends with is that entry's trouble where "keyguard" can be
// fetched, and the store's where it cannot. No shell runs them and no key stands in an argument or a variable
// (law 8). There is no terminal: whoever asks a question gets no answer, and fails. Every
// run has a deadline, an environment that is listed (common in commandrun.go, and
// EnvironmentFile), and no other run of this process beside it.
//
// Two entries of one name are one copy that cannot be read: nobody can say which of them
// is meant. Everything else is not deleted, overwritten or renamed.
type Command struct {
	o       CommandOptions
	seal    *sealer
	program program
	// turn holds one place: password managers lose what two write at once.
	turn chan struct{}

	mu    sync.Mutex
	known map[string]stored // mu: by name, as last listed
	mark  stored            // mu: the entry that marks the place
}

// program is one password manager.
type program interface {
	// where names the place, domain what is lost together.
	where() (where, domain string)
	// list returns every entry of the place, of one name as often as it is there.
	list(ctx context.Context) ([]stored, error)
	// fetch returns an entry's text.
	fetch(ctx context.Context, e stored) ([]byte, error)
	// save makes an entry.
	save(ctx context.Context, name string, text []byte) error
}

// stored is an entry of a password manager.
type stored struct {
	name string
	id   string // the program's own, "" where it goes by names
	kind string // the program's word
	at   time.Time
}

// NewCommand checks the options. It runs nothing and opens no file.
func NewCommand(o CommandOptions) (*Command, error) {
	fail := func(err error) (*Command, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	seal, err := newSealer(o.Part, o.SealTo, o.IdentityFiles...)
	if err != nil {
		return fail(err)
	}
	r := runner{timeout: cmp.Or(o.Timeout, commandTimeout), file: o.EnvironmentFile}
	var p program
	switch o.Preset {
	case "1password":
		p = newOnePassword(r, o.Path)
	case "bitwarden":
		p = newBitwarden(r, o.Path)
	case "pass":
		p = newPass(r, o.Path)
	case "":
		if len(o.Save) == 0 || len(o.List) == 0 || len(o.Fetch) == 0 {
			return fail(errors.New("save, list and fetch are needed"))
		}
		p = &scripts{r, o}
	default:
		return fail(fmt.Errorf("no preset %q", o.Preset))
	}
	if o.Preset != "" && o.Path == "" {
		return fail(errors.New("path is needed"))
	}
	return &Command{o: o, seal: seal, program: p, turn: make(chan struct{}, 1), known: map[string]stored{}}, nil
}

func (c *Command) Name() string { return c.o.Name }

func (c *Command) Place() escrow.Place {
	where, domain := c.program.where()
	return escrow.Place{Kind: "command", Where: where, Domain: domain}
}

// Close does nothing: no program outlives its call.
func (c *Command) Close() error { return nil }

func (c *Command) where() string { where, _ := c.program.where(); return where }

// begin waits for the turn.
func (c *Command) begin(ctx context.Context) (end func(), err error) {
	if strings.Contains(c.o.Path, "{") {
		return nil, fmt.Errorf("%w: not initialised, %s still has to be expanded", escrow.ErrNoPlace, c.o.Path)
	}
	if ctx.Err() != nil { // select takes either where both can go on
		return nil, contextError(ctx.Err())
	}
	select {
	case c.turn <- struct{}{}:
		return func() { <-c.turn }, nil
	case <-ctx.Done():
		return nil, contextError(ctx.Err())
	}
}

func (c *Command) List(ctx context.Context) ([]escrow.Copy, error) {
	end, err := c.begin(ctx)
	if err == nil {
		defer end()
		var copies []escrow.Copy
		if copies, err = c.list(ctx); err == nil {
			return copies, nil
		}
	}
	return nil, fmt.Errorf("cannot list %s: %w", c.where(), err)
}

// list lists both shelves, if the place is ours.
func (c *Command) list(ctx context.Context) ([]escrow.Copy, error) {
	entries, err := c.program.list(ctx)
	if err != nil {
		return nil, err
	}
	marked, mark := false, stored{}
	count, known, copies := map[string]int{}, map[string]stored{}, map[string]escrow.Copy{}
	for _, e := range entries {
		if e.name == commandMarker {
			marked, mark = true, e
			continue
		}
		shelf, name, _ := strings.Cut(e.name, "/")
		s := escrow.Shelf(shelf)
		if !slices.Contains(escrow.Shelves[:], s) || name == "" || len(e.name) > 255 || strings.ContainsFunc(e.name, unprintable) {
			continue
		}
		at, fp, part, ours := parseName(name)
		if !ours {
			at = e.at.UTC()
		}
		one := escrow.Copy{Escrow: c.o.Name, ID: e.name, Shelf: s, Fingerprint: fp, Part: part, Created: at}
		if strings.HasSuffix(name, ageSuffix) {
			c.seal.shut(&one)
		}
		if count[e.name]++; count[e.name] > 1 {
			one.Unreadable = fmt.Sprintf("%d entries have this name", count[e.name])
			if at := copies[e.name].Created; at.After(one.Created) {
				one.Created = at
			}
		}
		copies[e.name], known[e.name] = one, e
	}
	if !marked {
		return nil, fmt.Errorf("%w: not initialised, it has no entry %q", escrow.ErrNoPlace, commandMarker)
	}
	if len(copies) > maxNames {
		return nil, fmt.Errorf("%w: more than %d entries", escrow.ErrRefused, maxNames)
	}
	for name, n := range count {
		if n > 1 {
			delete(known, name)
		}
	}
	c.mu.Lock()
	c.known, c.mark = known, mark
	c.mu.Unlock()
	var all []escrow.Copy
	for _, s := range escrow.Shelves {
		all = append(all, bounded(shelfOf(copies, s), func(one escrow.Copy) bool {
			_, name, _ := strings.Cut(one.ID, "/")
			_, _, _, ours := parseName(name)
			return ours
		})...)
	}
	return all, nil
}

// shelfOf picks the copies of one shelf, newest first.
func shelfOf(copies map[string]escrow.Copy, s escrow.Shelf) []escrow.Copy {
	var list []escrow.Copy
	for _, one := range copies {
		if one.Shelf == s {
			list = append(list, one)
		}
	}
	newestFirst(list)
	return list
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

// Fetch reads one entry, of the place as it was last listed, else as it is now.
func (c *Command) Fetch(ctx context.Context, copy escrow.Copy) (key.Key, key.Encoding, error) {
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(copy.ID), c.where(), err)
	}
	end, err := c.begin(ctx)
	if err != nil {
		return fail(err)
	}
	defer end()
	data, err := c.read(ctx, copy.ID)
	if err != nil {
		return fail(err)
	}
	k, enc, err := c.seal.key(data)
	if err != nil {
		return fail(err)
	}
	_, name, _ := strings.Cut(copy.ID, "/")
	if _, fp, _, ours := parseName(name); ours && fp != k.Fingerprint() {
		_, _, err = fail(&escrow.MisnamedError{Says: fp, Holds: k.Fingerprint()})
	}
	return k, enc, err
}

// read returns the bytes of the copy with an id.
func (c *Command) read(ctx context.Context, id string) ([]byte, error) {
	c.mu.Lock()
	e, ok := c.known[id]
	c.mu.Unlock()
	if !ok {
		copies, err := c.list(ctx)
		if err != nil {
			return nil, err
		}
		for _, one := range copies {
			if one.ID == id && one.Unreadable != "" && !one.Sealed {
				return nil, fmt.Errorf("%w: %s; delete or rename those that are wrong", escrow.ErrUnreadable, one.Unreadable)
			}
		}
		c.mu.Lock()
		e, ok = c.known[id]
		c.mu.Unlock()
		if !ok {
			return nil, escrow.ErrGone
		}
	}
	text, err := c.program.fetch(ctx, e)
	if err != nil {
		return nil, c.blame(ctx, err)
	}
	return payload(text), nil
}

// blame tells what is wrong with one entry from what is wrong with the store: it is the
// entry's where the one that marks the place can be read. Programs word both alike: GnuPG has
// no secret key where its home is another, and where one entry is for somebody else; and what
// is locked now, for all of them, may be read later.
func (c *Command) blame(ctx context.Context, err error) error {
	if ctx.Err() != nil || isAny(err, escrow.ErrGone, escrow.ErrUnreadable, escrow.ErrTimeout, escrow.ErrRateLimited, escrow.ErrNeverLeft, escrow.ErrProgram) {
		return err
	}
	c.mu.Lock()
	mark := c.mark
	c.mu.Unlock()
	text, other := c.program.fetch(ctx, mark)
	clear(text)
	if other != nil {
		return err
	}
	if e, ok := errors.AsType[*run.Error](err); ok && !errors.Is(err, escrow.ErrDenied) { // not by what that means of a store
		err = e
	}
	return fmt.Errorf("%w: %w", escrow.ErrUnreadable, err)
}

// payload takes the base64 off a text: what keyguard saves has it, and what people save
// may be a key in any form by itself. It wipes the text if it returns another.
func payload(text []byte) []byte {
	if sealed(text) || isKey(text) && len(text) == key.Size {
		return text
	}
	plain := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(plain, []byte(strings.TrimSpace(string(text))))
	plain = plain[:n]
	if err != nil || !sealed(plain) && !isKey(plain) && isKey(text) {
		clear(plain)
		return text
	}
	clear(text)
	return plain
}

// isKey tells whether bytes are a key in any form, or were one.
func isKey(b []byte) bool {
	k, _, err := key.Decode(b)
	k.Wipe()
	return err == nil || errors.Is(err, key.ErrMangled)
}

// Init makes the entry that marks the place, where there is none.
func (c *Command) Init(ctx context.Context) error {
	end, err := c.begin(ctx)
	if err == nil {
		defer end()
		if _, err = c.list(ctx); errors.Is(err, escrow.ErrNoPlace) {
			if err = c.save(ctx, commandMarker, []byte(commandReadme)); err == nil {
				_, err = c.list(ctx)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot initialise %s: %w", c.where(), err)
	}
	return nil
}

// stored finds among the copies of a shelf the one that a Save of k compares with and that is equal,
// or else says of which time a new one would be.
func (c *Command) stored(ctx context.Context, copies []escrow.Copy, s escrow.Shelf, k key.Key) (found escrow.Copy, now time.Time, err error) {
	for _, one := range comparable(copies, s, k) {
		there, err := c.read(ctx, one.ID)
		switch {
		case err == nil:
			same := c.seal.same(there, k)
			clear(there)
			if same {
				one.Fingerprint = k.Fingerprint()
				return one, now, nil
			}
		case isAny(err, escrow.ErrUnreadable, escrow.ErrGone, escrow.ErrNotKey, escrow.ErrDenied): // it cannot be what is asked for
		default:
			return escrow.Copy{}, now, err
		}
	}
	now, err = after(copies, s)
	return escrow.Copy{}, now, err
}

// Rehearse does on both shelves what a Save does of a key that nobody has, but for making the entry:
// what its program makes nobody here takes away.
func (c *Command) Rehearse(ctx context.Context) error {
	k := key.Generate()
	defer k.Wipe()
	end, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("cannot rehearse a save on %s: %w", c.where(), err)
	}
	defer end()
	all, err := c.list(ctx)
	if err != nil {
		return fmt.Errorf("cannot rehearse a save on %s: %w", c.where(), err)
	}
	for _, s := range escrow.Shelves {
		if _, _, err := c.stored(ctx, on(s, all), s, k); err != nil {
			return fmt.Errorf("cannot save to %s on %s: %w", s, c.where(), err)
		}
	}
	return nil
}

// save hands bytes to the program, as a line of base64.
func (c *Command) save(ctx context.Context, name string, data []byte) error {
	text := base64.StdEncoding.AppendEncode(nil, data)
	text = append(text, '\n')
	defer clear(text)
	return c.program.save(ctx, name, text)
}

// Save makes one new entry.
func (c *Command) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s on %s: %w", s, c.where(), err)
	}
	if !slices.Contains(escrow.Shelves[:], s) {
		return fail(fmt.Errorf("no shelf %q", clip(string(s))))
	}
	data, err := c.seal.bytes(k)
	if err != nil {
		return fail(err)
	}
	defer clear(data)
	end, err := c.begin(ctx)
	if err != nil {
		return fail(err)
	}
	defer end()
	copies, err := c.shelf(ctx, s)
	if err != nil {
		return fail(err)
	}
	found, now, err := c.stored(ctx, copies, s, k)
	switch {
	case err != nil:
		return fail(err)
	case found.ID != "":
		return found, nil
	}
	name := string(s) + "/" + c.seal.name(now, k)
	if err := c.save(ctx, name, data); err != nil {
		// It may be stored all the same: the next Save finds it by comparing.
		return fail(err)
	}
	if copies, err = c.shelf(ctx, s); err != nil {
		return fail(fmt.Errorf("reading back %s: %w", name, err))
	}
	i := slices.IndexFunc(copies, func(one escrow.Copy) bool { return one.ID == name })
	if i < 0 {
		return fail(fmt.Errorf("reading back %s: %w: it is not listed", name, escrow.ErrCorrupt))
	}
	back, err := c.read(ctx, name)
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return copies[i], fmt.Errorf("%s on %s: %w", name, c.where(), escrow.ErrUnverified)
	case err != nil:
		return fail(fmt.Errorf("reading back %s: %w", name, err))
	}
	defer clear(back)
	if !c.seal.same(back, k) {
		return fail(fmt.Errorf("reading back %s: %w: other bytes", name, escrow.ErrCorrupt))
	}
	return copies[i], nil
}

// shelf lists one shelf, newest first.
func (c *Command) shelf(ctx context.Context, s escrow.Shelf) ([]escrow.Copy, error) {
	all, err := c.list(ctx)
	return on(s, all), err
}

// on are those of the copies that stand on a shelf.
func on(s escrow.Shelf, all []escrow.Copy) (list []escrow.Copy) {
	for _, c := range all {
		if c.Shelf == s {
			list = append(list, c)
		}
	}
	return list
}
