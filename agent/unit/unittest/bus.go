// Package unittest is a systemd for tests, as far as it is asked over D-Bus.
package unittest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// Answer is what a call is answered with: values; an error by its name, with its words; or
// whatever these bytes are, after which the connection is closed.
type Answer struct {
	Values []any
	Error  string
	Bytes  []byte
}

// Listen makes a socket what this process takes for the system's bus, until the test ends.
func Listen(t testing.TB, serve func(net.Conn)) {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// Silent never says a word.
func Silent(conn net.Conn) {
	bufio.NewReader(conn).Peek(1 << 10) //nolint:errcheck // until it is closed
}

// Serve answers the calls of one connection, and greets it by itself. It speaks as much of
// D-Bus as a client of one bus needs (D-Bus Specification, "Authentication Protocol" and
// "Message Protocol").
func Serve(t testing.TB, conn net.Conn, answer func(call *dbus.Message) Answer) {
	from := bufio.NewReader(conn)
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
		call, err := dbus.DecodeMessage(from)
		if err != nil {
			return
		}
		var is Answer
		switch member, _ := call.Headers[dbus.FieldMember].Value().(string); member {
		case "Hello":
			is.Values = []any{":1.1"}
		case "AddMatch":
		default:
			is = answer(call)
		}
		if is.Bytes != nil {
			conn.Write(is.Bytes) //nolint:errcheck // who asked may have gone
			return
		}
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: is.Values, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
			dbus.FieldSender:      dbus.MakeVariant("org.freedesktop.DBus"),
		}}
		if is.Error != "" {
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(is.Error)
		}
		if len(is.Values) > 0 {
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(is.Values...))
		}
		var text bytes.Buffer
		if err := reply.EncodeTo(&text, binary.LittleEndian); err != nil {
			t.Error(err)
			return
		}
		binary.LittleEndian.PutUint32(text.Bytes()[8:], serial)
		if _, err := conn.Write(text.Bytes()); err != nil {
			return
		}
	}
}
