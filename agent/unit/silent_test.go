package unit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// bus is a systemd that answers when it is let, on a socket that the test's process takes
// for the system's bus: of each unit that it is not loaded and inactive.
type bus struct {
	t     *testing.T
	knows bool          // who asks is told that he is known
	goOn  chan struct{} // closed, or given one for each call that is answered
	asked chan string   // the calls that came
}

func newBus(t *testing.T, knows bool) *bus {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	b := &bus{t: t, knows: knows, goOn: make(chan struct{}), asked: make(chan string, 100)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(conn)
		}
	}()
	return b
}

// serve speaks as much of D-Bus as a client of one bus needs (D-Bus Specification,
// "Authentication Protocol" and "Message Protocol").
func (b *bus) serve(conn net.Conn) {
	defer conn.Close()
	from := bufio.NewReader(conn)
	if !b.knows {
		from.Peek(1 << 10) //nolint:errcheck // until it is closed
		return
	}
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		word := strings.Fields(strings.TrimPrefix(line, "\x00"))
		switch {
		case word[0] == "AUTH" && len(word) == 1:
			conn.Write([]byte("REJECTED EXTERNAL\r\n")) //nolint:errcheck // the next read tells
		case word[0] == "AUTH" && len(word) == 2:
			conn.Write([]byte("DATA\r\n")) //nolint:errcheck // as above
		case word[0] == "AUTH", word[0] == "DATA":
			conn.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n")) //nolint:errcheck // as above
		case word[0] == "NEGOTIATE_UNIX_FD":
			conn.Write([]byte("ERROR\r\n")) //nolint:errcheck // as above
		}
		if word[0] == "BEGIN" {
			break
		}
	}
	for serial := uint32(1); ; serial++ {
		call, err := godbus.DecodeMessage(from)
		if err != nil {
			return
		}
		member, _ := call.Headers[godbus.FieldMember].Value().(string)
		var answer []any
		switch member {
		case "Hello":
			answer = []any{":1.1"}
		case "Get":
			b.asked <- call.Body[1].(string)
			<-b.goOn
			answer = []any{godbus.MakeVariant(map[string]string{"LoadState": "not-found", "ActiveState": "inactive"}[call.Body[1].(string)])}
		case "AddMatch":
		default:
			b.t.Errorf("%s is asked, which this bus does not know", member)
			return
		}
		reply := &godbus.Message{Type: godbus.TypeMethodReply, Body: answer, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldReplySerial: godbus.MakeVariant(call.Serial()),
			godbus.FieldSender:      godbus.MakeVariant("org.freedesktop.DBus"),
		}}
		if len(answer) > 0 {
			reply.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(answer...))
		}
		var text bytes.Buffer
		if err := reply.EncodeTo(&text, binary.LittleEndian); err != nil {
			b.t.Error(err)
			return
		}
		binary.LittleEndian.PutUint32(text.Bytes()[8:], serial)
		if _, err := conn.Write(text.Bytes()); err != nil {
			return
		}
	}
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
		b := newBus(t, knows)
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

// TestLateSystemd: whoever answers late is heard.
func TestLateSystemd(t *testing.T) {
	b := newBus(t, true)
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
