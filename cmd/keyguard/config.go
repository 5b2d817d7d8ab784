package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "check the configuration and print what is in force",
		Long: `config checks the whole configuration, names every problem with its line, and
prints what is in force, the defaults included. An escrow that is not right is
not used, and the keyfile and the other escrows are looked after all the same.

Exit status: 0 it can be used; 2 it cannot.`,
		Example: `  keyguard config
  keyguard config --config new.toml     # before it is put in place`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.configuration(config.Check)
			if err != nil {
				return err
			}
			h, err := a.host(cfg, wiring{})
			if err != nil {
				return err
			}
			if _, err := a.out.Write(cfg.InForce()); err != nil {
				return err
			}
			if len(cfg.Escrows) == 0 {
				a.urgent("no escrow is configured: there is no copy off this host, and that is no backup")
			}
			if err := cfg.Wrong(); err != nil {
				return configError{err}
			}
			if file := cfg.Database.URLFile; file != "" {
				// That it is missing, or cannot be read, is no problem of the configuration.
				if _, err := rows.Locate(cmd.Context(), rows.LocateOptions{URLFile: file}); errors.Is(err, rows.ErrURL) {
					return err
				}
			}
			if len(a.wrong) > 0 { // what only the escrows themselves know to be wrong
				return configError{a.wrong[0]}
			}
			if err := h.Apart(cmd.Context()); err != nil {
				return err
			}
			if err := config.Trust(a.configPath()); err != nil {
				return configError{err}
			}
			return nil
		},
	}
}
