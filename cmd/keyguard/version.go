package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionDoc struct {
	Version  int    `json:"version"`
	Keyguard string `json:"keyguard"`
	Revision string `json:"revision,omitempty"` // of the source
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "print the version of this program",
		Long: `version prints the version of this program, the source that it was built from,
and with what.

Exit status: 0 done.`,
		Example: `  keyguard version
  keyguard version --json`,
		RunE: func(*cobra.Command, []string) error {
			d := versionDoc{Version: jsonVersion, Keyguard: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						d.Revision = s.Value
					}
				}
			}
			if a.json {
				return a.printJSON(d)
			}
			a.line("keyguard %s", d.Keyguard)
			if d.Revision != "" {
				a.line("revision %s", d.Revision)
			}
			a.line("%s, %s", d.Go, d.Platform)
			return nil
		},
	}
	a.jsonFlag(c)
	return c
}
