package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
)

// serveDirectory is the command under which this program calls itself to reach a
// directory escrow: a child can be abandoned where the file system hangs.
const serveDirectory = "serve-directory"

func (a *app) serveDirectoryCommand() *cobra.Command {
	return &cobra.Command{
		Use:    serveDirectory,
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return kinds.ServeDirectory(c.Context(), a.in, os.Stdout)
		},
	}
}
