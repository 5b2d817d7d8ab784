// Command fake-password-managers is, by the name that it is called by, one of the
// programs of agent/escrow/escrowtest/passwordmanager: op, bw or vaulty.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/passwordmanager"
)

func main() {
	program, ok := passwordmanager.Programs[filepath.Base(os.Args[0])]
	if !ok {
		fmt.Fprintln(os.Stderr, "call it by the name of a program: op, bw or vaulty")
		os.Exit(2)
	}
	os.Exit(program(os.Args[1:]))
}
