package kinds

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
)

// TestWireText: one trouble has one text, whatever port it had and whichever side of the
// connection was looked at first.
func TestWireText(t *testing.T) {
	at := func(op string, port int, err error) error {
		return &url.Error{Op: "Put", URL: "https://store/v1/key", Err: &net.OpError{Op: op, Net: "tcp",
			Source: &net.TCPAddr{Port: port}, Addr: &net.TCPAddr{Port: 443}, Err: err}}
	}
	name := func(port int) error {
		return at("dial", port, &net.DNSError{Err: fmt.Sprintf("read udp 127.0.0.1:%d->127.0.0.53:53: i/o timeout", port), Name: "store", Server: "127.0.0.53:53", IsTimeout: true})
	}
	for _, c := range []struct {
		want string
		errs []error
	}{
		{connectionBroke, []error{io.EOF, io.ErrUnexpectedEOF, at("read", 1, os.NewSyscallError("read", syscall.ECONNRESET)), at("write", 2, os.NewSyscallError("write", syscall.EPIPE))}},
		{"connection refused", []error{at("dial", 1, os.NewSyscallError("connect", syscall.ECONNREFUSED)), at("dial", 2, syscall.ECONNREFUSED)}},
		{"no name server answers", []error{name(1), name(2)}},
		{"its name is not known", []error{&net.DNSError{Err: "no such host", Server: "10.0.0.1:53", IsNotFound: true}, &net.DNSError{Err: "no such host", Server: "10.0.0.2:53", IsNotFound: true}}},
	} {
		for _, err := range c.errs {
			if got := wireText(err); got != c.want {
				t.Errorf("%v is told as %q, want %q", err, got, c.want)
			}
		}
	}
}
