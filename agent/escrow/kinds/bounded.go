package kinds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// boundedTimeout is for one call. A directory answers in milliseconds, NFS over a
	// bad line in a second, and a disk that has to spin up in about eight.
	boundedTimeout = 10 * time.Second
	// maxAnswer bounds a child's answer in bytes: maxNames copies of some 200 bytes each.
	maxAnswer = 32 << 20
)

// Bounded is a Directory whose calls end in time, though nothing ends a system call in a file
// system that hangs (NFS without its server, a dying disk). NewIsolated has a child process make
// each call: it is killed when the context ends and, if it does not die, abandoned, and the caller
// goes on. NewInProcess makes the calls here.
//
// The child is this program itself, called so that it runs ServeDirectory. Request and
// answer are a line of JSON, followed by the 32 bytes of a key where there is one; both
// go through pipes, never argv (law 8).
type Bounded struct {
	program string // "": this process makes the calls
	args    []string
	dir     *Directory
	timeout time.Duration
}

// NewIsolated checks the options. program and args start ServeDirectory; timeout is for
// each call, 0 is 10 s. It starts nothing.
func NewIsolated(program string, args []string, o DirectoryOptions, timeout time.Duration) (*Bounded, error) {
	d, err := NewDirectory(o)
	if err != nil {
		return nil, err
	}
	if timeout <= 0 {
		timeout = boundedTimeout
	}
	return &Bounded{program, args, d, timeout}, nil
}

// NewInProcess makes one without a child: a call that does not end in time is left
// behind in this process, which then cannot end either. It is for one that whoever waits
// for it can leave, the worker of a start: a child would cost as much as all else it does.
func NewInProcess(o DirectoryOptions, timeout time.Duration) (*Bounded, error) {
	return NewIsolated("", nil, o, timeout)
}

func (b *Bounded) Name() string        { return b.dir.Name() }
func (b *Bounded) Place() escrow.Place { return b.dir.Place() }

// Close does nothing: no child outlives its call but one that cannot die.
func (b *Bounded) Close() error { return nil }

func (b *Bounded) List(ctx context.Context) ([]escrow.Copy, error) {
	a, _, err := b.ask(ctx, request{Op: "list"}, key.Key{})
	return a.Copies, err
}

func (b *Bounded) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	a, k, err := b.ask(ctx, request{Op: "fetch", ID: c.ID}, key.Key{})
	if err == nil && k.IsZero() {
		err = fmt.Errorf("cannot fetch %q from %s: %w: no key in the answer", clip(c.ID), b.dir.o.Path, escrow.ErrUnreachable)
	}
	return k, a.Encoding, err
}

func (b *Bounded) Init(ctx context.Context) error {
	_, _, err := b.ask(ctx, request{Op: "init"}, key.Key{})
	return err
}

func (b *Bounded) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	a, _, err := b.ask(ctx, request{Op: "save", Shelf: s}, k)
	if err != nil || len(a.Copies) == 0 {
		return escrow.Copy{}, err
	}
	return a.Copies[0], nil
}

func (b *Bounded) Rehearse(ctx context.Context) error {
	_, _, err := b.ask(ctx, request{Op: "rehearse"}, key.Key{})
	return err
}

type request struct {
	Op      string
	Options DirectoryOptions
	ID      string // printable: JSON keeps no other bytes
	Shelf   escrow.Shelf
}

type reply struct {
	Copies      []escrow.Copy
	Encoding    key.Encoding
	Examination *escrow.Examination
	Located     []string
	Failure     *failure
}

// failure is an error on its way to another process: its text, and which of the
// contract's errors it is.
type failure struct {
	Text  string
	Is    []string
	Claim key.Fingerprint // of a SealedError, a MisnamedError
	To    []string
	// Unusable is a SealedError's, "" for none.
	Unusable string
	Part     bool // it is a key.PartError, whose part's line comes in the place of a key
	Other    bool // it is a MisnamedError, whose key comes as one that was asked for does
}

// sentinels are the contract's errors, under the names that travel.
var sentinels = []struct {
	name string
	err  error
}{
	{"no place", escrow.ErrNoPlace}, {"in the way", escrow.ErrInTheWay}, {"ambiguous", escrow.ErrAmbiguous}, {"held", escrow.ErrHeld}, {"denied", escrow.ErrDenied}, {"clock", escrow.ErrClock}, {"unauthenticated", escrow.ErrUnauthenticated},
	{"never left", escrow.ErrNeverLeft}, {"no /proc", escrow.ErrNoProc}, {"untrusted", escrow.ErrUntrusted}, {"store sealed", escrow.ErrStoreSealed}, {"unreachable", escrow.ErrUnreachable}, {"timeout", escrow.ErrTimeout},
	{"rate limited", escrow.ErrRateLimited}, {"program", escrow.ErrProgram}, {"location", escrow.ErrLocation}, {"end of time", escrow.ErrEndOfTime}, {"refused", escrow.ErrRefused}, {"unreadable", escrow.ErrUnreadable}, {"gone", escrow.ErrGone},
	{"sealed", escrow.ErrSealed}, {"corrupt", escrow.ErrCorrupt}, {"mangled", key.ErrMangled}, {"damaged part", key.ErrPartDamaged}, {"not a key", escrow.ErrNotKey},
	{"same disk", escrow.ErrSameDisk}, {"read-only", escrow.ErrReadOnly}, {"full", escrow.ErrFull}, {"exposed", escrow.ErrExposed}, {"unverified", escrow.ErrUnverified},
	{"size", key.ErrSize}, {"file size", unix.EFBIG},
}

// procThere tells whether proc(5) is mounted, through which the child is started and finds the
// files that it has opened.
func procThere() bool {
	_, err := os.Stat("/proc/self/exe")
	return err == nil
}

func hasSentinel(err error) bool {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return true
		}
	}
	return false
}

// relayed is an error that another process had.
type relayed struct {
	text string
	is   []error
}

func (r *relayed) Error() string   { return r.text }
func (r *relayed) Unwrap() []error { return r.is }

func (b *Bounded) ask(ctx context.Context, req request, k key.Key) (reply, key.Key, error) {
	fail := func(err error) (reply, key.Key, error) {
		return reply{}, key.Key{}, fmt.Errorf("cannot %s %s: %w", req.Op, b.dir.o.Path, err)
	}
	req.Options = b.dir.o
	if b.program == "" {
		a, k, err := b.here(ctx, req, k)
		if errors.Is(err, errLeft) {
			return fail(err)
		}
		return a, k, err
	}
	line, err := json.Marshal(req)
	if err != nil {
		return fail(err)
	}
	in := make([]byte, 0, len(line)+1+key.Size)
	in = append(append(append(in, line...), '\n'), k.UnsafeBytes()...)
	defer clear(in)
	out, err := run.Command(ctx, run.Spec{
		Path: b.program, Args: b.args, Stdin: in, Timeout: b.timeout, MaxOutput: maxAnswer, Abandon: true,
	})
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		return fail(fmt.Errorf("%w: %w", escrow.ErrTimeout, err))
	case errors.Is(err, context.Canceled):
		return fail(err)
	case !procThere():
		return fail(fmt.Errorf("%w: %w", escrow.ErrNoProc, err))
	default:
		return fail(fmt.Errorf("%w: %w", escrow.ErrUnreachable, err))
	}
	defer clear(out)
	line, rest, whole := bytes.Cut(out, []byte("\n"))
	var a reply
	if !whole || json.Unmarshal(line, &a) != nil {
		return fail(fmt.Errorf("%w: its reader did not answer", escrow.ErrUnreachable))
	}
	if a.Failure != nil {
		other, said, err := a.Failure.relay(rest)
		if err != nil {
			return fail(err)
		}
		if other.IsZero() {
			a = reply{}
		}
		return a, other, said // its text already says what and where
	}
	if len(rest) == 0 {
		return a, key.Key{}, nil
	}
	got, err := key.New(rest)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", escrow.ErrUnreachable, err))
	}
	return a, got, nil
}

// relay makes of it the error that the other process had, and the key of a copy that is called
// another one, which came behind it as rest.
func (f *failure) relay(rest []byte) (other key.Key, r *relayed, err error) {
	r = &relayed{text: f.Text}
	for _, name := range f.Is {
		for _, s := range sentinels {
			if s.name == name && s.err == escrow.ErrSealed {
				shut := &escrow.SealedError{Fingerprint: f.Claim, To: f.To}
				if f.Unusable != "" {
					shut.Unusable = errors.New(f.Unusable)
				}
				r.is = append(r.is, shut)
			} else if s.name == name {
				r.is = append(r.is, s.err)
			}
		}
	}
	if f.Part {
		p, err := key.ParsePart(rest)
		if err != nil {
			return key.Key{}, nil, fmt.Errorf("%w: its reader's answer is broken: %w", escrow.ErrUnreachable, err)
		}
		r.is = append(r.is, &key.PartError{Part: p})
	}
	if f.Other {
		if other, err = key.New(rest); err != nil {
			return key.Key{}, nil, fmt.Errorf("%w: its reader's answer is broken: %w", escrow.ErrUnreachable, err)
		}
		r.is = append(r.is, &escrow.MisnamedError{Says: f.Claim, Holds: other.Fingerprint()})
	}
	return other, r, nil
}

// errLeft says that a call was left behind.
var errLeft = errors.New("it does not answer")

// here makes a call in this process, and leaves it behind when its time is over. The key that it
// gets after that nobody takes: it is wiped.
func (b *Bounded) here(ctx context.Context, req request, k key.Key) (reply, key.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	payload := slices.Clone(k.UnsafeBytes()) // whoever has k may wipe it meanwhile
	var a reply
	var got key.Key
	ended := crew.Go(func() (err error) {
		defer clear(payload)
		a, got, err = req.serve(ctx, payload)
		return err
	})
	select {
	case err := <-ended:
		return a, got, err
	case <-ctx.Done():
	}
	crew.Go(func() error {
		<-ended
		got.Wipe()
		return nil
	})
	if errors.Is(ctx.Err(), context.Canceled) {
		return reply{}, key.Key{}, fmt.Errorf("%w: %w", errLeft, ctx.Err())
	}
	return reply{}, key.Key{}, fmt.Errorf("%w: %w", escrow.ErrTimeout, errLeft)
}

// ServeDirectory is the child's side of NewIsolated: it reads one request from in, makes the
// call and writes the answer to out. What goes wrong in the call is part of the answer;
// the error is for a request that is none, and for pipes that break.
func ServeDirectory(ctx context.Context, in io.Reader, out io.Writer) error {
	all, err := io.ReadAll(io.LimitReader(in, maxPayload))
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	defer clear(all)
	line, rest, _ := bytes.Cut(all, []byte("\n"))
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return errors.New("the request is not one of keyguard's")
	}
	a, k, err := req.serve(ctx, rest)
	defer k.Wipe()
	payload := k.UnsafeBytes()
	if err != nil {
		a = reply{Encoding: a.Encoding, Failure: &failure{Text: err.Error()}}
		for _, s := range sentinels {
			if errors.Is(err, s.err) {
				a.Failure.Is = append(a.Failure.Is, s.name)
			}
		}
		if shut, ok := errors.AsType[*escrow.SealedError](err); ok {
			a.Failure.Claim, a.Failure.To = shut.Fingerprint, shut.To
			if shut.Unusable != nil {
				a.Failure.Unusable = shut.Unusable.Error()
			}
		}
		if part, ok := errors.AsType[*key.PartError](err); ok {
			a.Failure.Part, payload = true, part.Part.UnsafeText()
			defer clear(payload)
			part.Part.Wipe()
		}
		if other, ok := errors.AsType[*escrow.MisnamedError](err); ok {
			a.Failure.Other, a.Failure.Claim = true, other.Says
		}
	}
	head, err := json.Marshal(a)
	if err != nil {
		return err
	}
	answer := make([]byte, 0, len(head)+1+len(payload))
	answer = append(append(append(answer, head...), '\n'), payload...)
	defer clear(answer)
	if _, err := out.Write(answer); err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	return nil
}

func (r request) serve(ctx context.Context, payload []byte) (a reply, k key.Key, err error) {
	d, err := NewDirectory(r.Options)
	if err != nil {
		return a, k, err
	}
	switch r.Op {
	case "list":
		a.Copies, err = d.List(ctx)
	case "fetch":
		k, a.Encoding, err = d.Fetch(ctx, escrow.Copy{ID: r.ID})
	case "init":
		err = d.Init(ctx)
	case "save":
		var saved key.Key
		if saved, err = key.New(payload); err != nil {
			return a, k, err
		}
		defer saved.Wipe()
		var c escrow.Copy
		c, err = d.Save(ctx, r.Shelf, saved)
		a.Copies = []escrow.Copy{c}
	case "rehearse":
		err = d.Rehearse(ctx)
	case "examine":
		var e escrow.Examination
		e, err = d.Examine(ctx)
		a.Examination = &e
	case "locate":
		a.Located, err = d.Locate(ctx)
	default:
		err = fmt.Errorf("no request %q", clip(r.Op))
	}
	return a, k, err
}
