package kinds

// This file has what stores share of what goes wrong on the way to them: which error it is, and in
// which words.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// clockWrong compares a server's Date header (RFC 9110, 6.6.1) with our clock. Google
// accepts tokens from five minutes ahead.
func clockWrong(date string) bool {
	t, err := http.ParseTime(date)
	return err == nil && time.Since(t).Abs() > 5*time.Minute
}

// neverLeft tells from a dialling error that no packet can have reached the store: no
// name for it, or no route to it.
func neverLeft(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) || isAny(err, noRoute[:]...)
}

// noRoute are the errors of connect(2) for which nothing was sent.
var noRoute = [...]error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL}

// wireText says what went wrong on the way, in the same words each time: what is told of one
// trouble again and again, because the text has another port in it, nobody reads.
func wireText(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsTimeout:
		return "no name server answers"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "its name is not known"
	case isAny(err, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE):
		return connectionBroke
	}
	return clip(innermost(err).Error())
}

// connectionBroke is how a connection's end is told, as an end, as a reset or as a broken
// pipe: which it is depends on who looks first.
const connectionBroke = "the connection broke"

// innermost takes the layers off an error that name addresses and requests.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// contextError is the error of a call whose context has ended.
func contextError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", escrow.ErrTimeout, err)
	}
	return err
}

// clip makes a foreign message fit for ours: one line, printable, at most 300 bytes.
func clip(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// loopback takes addresses and the one name that RFC 6761 binds to them.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// isAny is errors.Is for one of several.
func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
