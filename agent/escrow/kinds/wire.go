package kinds

// This file has what all stores behind a network share: what went wrong on the way, in words.

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
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
