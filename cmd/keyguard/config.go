package main

import "github.com/spf13/cobra"

func (a *app) configCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "check the configuration and print what is in force",
		Long: `config checks the whole configuration, names every problem with its line, and
prints what is in force, the defaults included.

Exit status: 0 it can be used; 2 it cannot.`,
		Example: `  keyguard config
  keyguard config --config new.toml     # before it is put in place`,
		RunE: func(*cobra.Command, []string) error {
			_, cfg, err := a.open()
			if err != nil {
				return err
			}
			if _, err := a.out.Write(cfg.InForce()); err != nil {
				return err
			}
			if len(cfg.Escrows) == 0 {
				a.urgent("no escrow is configured: there is no copy off this host, and that is no backup")
			}
			return nil
		},
	}
}
