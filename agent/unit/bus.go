package unit

import (
	"context"
	"errors"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// ErrSilent says that systemd, or the bus, took a question and did not answer. That is no
// answer (law 6).
var ErrSilent = errors.New("systemd does not answer")

// patience is how long one question is waited for, which systemd answers in milliseconds. How
// long a job takes is its unit's business, and the caller's.
//
// Tests shorten it.
var patience = 10 * time.Second

// bus is a connection to systemd on which nobody waits for ever: neither godbus' way onto the
// bus nor some of the library's questions know a deadline. What is not answered in time
// ends it.
type bus struct {
	conn *dbus.Conn
	end  context.CancelFunc
	// silent: it ended so.
	silent bool
}

func dial(ctx context.Context) (*bus, error) {
	b := &bus{}
	ctx, b.end = context.WithCancel(ctx)
	err := b.ask(func() (err error) { b.conn, err = dbus.NewWithContext(ctx); return err })
	if err != nil {
		b.end()
		return nil, err
	}
	return b, nil
}

// Close gives the connection back.
func (b *bus) Close() {
	b.conn.Close()
	b.end()
}

// ask asks one question. Where it is silent the connection ends, and with it the question.
func (b *bus) ask(question func() error) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	ended := crew.Go(question)
	select {
	case err := <-ended:
		switch {
		case b.silent:
			return ErrSilent
		case err != nil:
			return refusal{err}
		}
		return nil
	case <-late.C:
	}
	b.silent = true
	b.end()
	<-ended
	return ErrSilent
}

// refusal is an error of systemd's, whose words are of any length and form (law 10).
type refusal struct{ error }

func (r refusal) Error() string { return printable.Line(r.error.Error()) }
func (r refusal) Unwrap() error { return r.error }

// asked is ask for one that has a value.
func asked[T any](b *bus, question func() (T, error)) (value T, err error) {
	err = b.ask(func() (err error) { value, err = question(); return err })
	return value, err
}

func (b *bus) property(ctx context.Context, name, property string) (*dbus.Property, error) {
	return asked(b, func() (*dbus.Property, error) { return b.conn.GetUnitPropertyContext(ctx, name, property) })
}

func (b *bus) serviceProperty(ctx context.Context, name, property string) (*dbus.Property, error) {
	return asked(b, func() (*dbus.Property, error) { return b.conn.GetServicePropertyContext(ctx, name, property) })
}

func (b *bus) properties(ctx context.Context, name string) (map[string]any, error) {
	return asked(b, func() (map[string]any, error) { return b.conn.GetUnitPropertiesContext(ctx, name) })
}

func (b *bus) typeProperties(ctx context.Context, name, kind string) (map[string]any, error) {
	return asked(b, func() (map[string]any, error) { return b.conn.GetUnitTypePropertiesContext(ctx, name, kind) })
}
