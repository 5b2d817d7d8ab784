// Package recipient reads whom a copy is sealed to: for the configuration, which says in
// which line one cannot be right, and for the escrows, which seal. Reading one starts
// nothing.
package recipient

import (
	"errors"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
)

// What a recipient can be that is none. Neither repeats it: it may be a secret (law 8).
var (
	errSSH = errors.New("is no SSH key that age can use: ssh-ed25519, or ssh-rsa of 2048 bits and more")
	errAge = errors.New("is no age recipient, such as age1… or ssh-ed25519 AAAA…")
)

// Parse reads age1…, as https://age-encryption.org/v1 and plugins (age1yubikey1…) have them,
// or the public half of an SSH key as its file has it, sshd(8). A plugin's program is
// started when something is sealed, and is told that nobody is there to be asked.
func Parse(s string) (age.Recipient, error) {
	if strings.HasPrefix(s, "ssh-") {
		r, err := agessh.ParseRecipient(s)
		if err != nil {
			return nil, errSSH
		}
		return r, nil
	}
	if list, err := age.ParseRecipients(strings.NewReader(s)); err == nil && len(list) == 1 {
		return list[0], nil
	}
	r, err := plugin.NewRecipient(s, &noQuestions)
	if err != nil {
		return nil, errAge
	}
	return r, nil
}

var noQuestions = plugin.ClientUI{
	DisplayMessage: func(string, string) error { return nil },
	RequestValue:   func(string, string, bool) (string, error) { return "", errNobody },
	Confirm:        func(string, string, string, string) (bool, error) { return false, errNobody },
	WaitTimer:      func(string) {},
}

var errNobody = errors.New("nobody is there to answer it")
