package unit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit/unittest"
)

// fake is a systemd that answers when it is let: of each unit that it is not loaded and
// inactive.
type fake struct {
	goOn  chan struct{} // closed, or given one for each call that is answered
	asked chan string   // the calls that came
}

// newFake is one that tells who asks that he is known, or not even that.
func newFake(t *testing.T, knows bool) *fake {
	b := &fake{goOn: make(chan struct{}), asked: make(chan string, 100)}
	if !knows {
		unittest.Listen(t, unittest.Silent)
		return b
	}
	unittest.Listen(t, func(conn net.Conn) {
		unittest.Serve(t, conn, func(call *godbus.Message) unittest.Answer {
			if member := call.Headers[godbus.FieldMember].Value(); member != "Get" {
				t.Errorf("%v is asked, which this bus does not know", member)
				return unittest.Answer{Bytes: []byte{}}
			}
			property := call.Body[1].(string)
			b.asked <- property
			<-b.goOn
			return unittest.Answer{Values: []any{godbus.MakeVariant(map[string]string{"LoadState": "not-found", "ActiveState": "inactive"}[property])}}
		})
	})
	return b
}

// questions are what is asked of systemd about the daemon.
var questions = map[string]func(context.Context) error{
	"Read":    func(ctx context.Context) error { _, err := Read(ctx, Names...); return err },
	"Running": func(ctx context.Context) error { _, err := Running(ctx, Names...); return err },
	"Restart": func(ctx context.Context) error { return Restart(ctx, "1", Names...) },
	"Stop":    func(ctx context.Context) error { return Stop(ctx, Names...) },
	"Reload":  func(ctx context.Context) error { return Reload(ctx, Names[0]) },
}

// TestSilentSystemd: one that does not answer has not said that there is no unit (law 6),
// and nobody waits for it longer than he may (law 9).
func TestSilentSystemd(t *testing.T) {
	for _, knows := range []bool{false, true} {
		b := newFake(t, knows)
		for name, ask := range questions {
			ctx, cancel := context.WithCancel(t.Context())
			if knows { // it is waited for
				go func() { <-b.asked; cancel() }()
			} else {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			if err := ask(ctx); err == nil || errors.Is(err, ErrNoUnit) {
				t.Errorf("%s, where the bus knows us: %t: %v", name, knows, err)
			}
			cancel()
		}
		close(b.goOn)
	}
}

// TestSystemdNeverAnswers: nobody waits longer for a question than patience, whoever asks: not
// for the way onto the bus, and not for an answer there.
func TestSystemdNeverAnswers(t *testing.T) {
	defer func(was time.Duration) { patience = was }(patience)
	patience = 20 * time.Millisecond
	over := make(chan struct{})
	defer close(over)
	for name, serve := range map[string]func(net.Conn){
		"nobody is greeted": unittest.Silent,
		"no call is answered": func(conn net.Conn) {
			unittest.Serve(t, conn, func(*godbus.Message) unittest.Answer { <-over; return unittest.Answer{Bytes: []byte{}} })
		},
	} {
		unittest.Listen(t, serve)
		all := map[string]func(context.Context) error{
			"Examine":     func(ctx context.Context) error { _, err := Examine(ctx, Names...); return err },
			"NextDrill":   func(ctx context.Context) error { _, err := NextDrill(ctx); return err },
			"ReadWatcher": func(ctx context.Context) error { _, err := ReadWatcher(ctx); return err },
			"ReadDaemon":  func(ctx context.Context) error { _, err := ReadDaemon(ctx, Names...); return err },
			"mainPID":     func(ctx context.Context) error { _, err := mainPID(ctx, "1", Names); return err },
			"Start":       func(ctx context.Context) error { return Start(ctx, Names...) },
			"Transient": func(ctx context.Context) error {
				_, err := Transient{Name: "x.service", Command: []string{"/bin/true"}}.Run(ctx)
				return err
			},
			"manager": func(ctx context.Context) error {
				conn, err := dial(ctx)
				if err != nil {
					return err
				}
				defer conn.Close()
				return managerOf(conn).err
			},
		}
		maps.Copy(all, questions)
		for what, ask := range all {
			if err := ask(context.Background()); !errors.Is(err, ErrSilent) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// TestSystemdsWords: what systemd says is told bounded and on one line (law 10).
func TestSystemdsWords(t *testing.T) {
	unittest.Listen(t, func(conn net.Conn) {
		unittest.Serve(t, conn, func(*godbus.Message) unittest.Answer {
			return unittest.Answer{Error: "org.freedesktop.DBus.Error.Failed", Values: []any{strings.Repeat("no\n\x1b[2J", 1<<16)}}
		})
	})
	for name, ask := range questions {
		err := ask(t.Context())
		if err == nil || len(err.Error()) > 2*printable.Max || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%s: %d bytes, %.200q", name, len(fmt.Sprint(err)), fmt.Sprint(err))
		}
	}
}

// TestLateSystemd: whoever answers late is heard.
func TestLateSystemd(t *testing.T) {
	b := newFake(t, true)
	go func() {
		for range b.asked {
			time.Sleep(30 * time.Millisecond)
			b.goOn <- struct{}{}
		}
	}()
	if _, err := Read(t.Context(), Names...); !errors.Is(err, ErrNoUnit) {
		t.Errorf("Read: %v", err)
	}
	if up, err := Running(t.Context(), Names...); err != nil || len(up) > 0 {
		t.Errorf("Running: %q, %v", up, err)
	}
	for _, name := range []string{"Restart", "Stop", "Reload"} {
		if err := questions[name](t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
