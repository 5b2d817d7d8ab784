package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// completePatience bounds what a person who pressed a key waits for: the state directory may
// hang. No store is asked.
const completePatience = time.Second

// known are words of the ledger for a shell to complete, each once, the newest first.
func (a *app) known(word func(ledger.Entry) string) []string {
	var list []string
	ended := crew.Go(func() error {
		cfg, err := a.configuration(config.Check)
		if err != nil {
			return err
		}
		record, err := ledger.Open(cfg.StateDir, ledger.Options{}).Read()
		if err != nil {
			return err
		}
		for _, e := range slices.Backward(record.Entries) {
			if w := printable.Line(word(e)); w != "" && !slices.Contains(list, w) {
				list = append(list, w)
			}
		}
		return nil
	})
	select {
	case <-ended:
		return list // what was read up to an error serves too
	case <-time.After(completePatience):
		return nil
	}
}

// completeRestore completes the names of escrows and the ids of copies.
func (a *app) completeRestore(c *cobra.Command) error {
	err := c.RegisterFlagCompletionFunc("from", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if cfg, err := a.configuration(config.Check); err == nil {
			for _, e := range cfg.Escrows {
				names = append(names, e.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		return err
	}
	return c.RegisterFlagCompletionFunc("copy", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		from, err := c.Flags().GetString("from")
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return a.known(func(e ledger.Entry) string {
			if from != "" && e.Escrow != from {
				return ""
			}
			return e.Copy
		}), cobra.ShellCompDirectiveNoFileComp
	})
}

// bare takes the quotes from what flags are for: in a help text they name the value, and a
// shell that completes would show them.
func bare(c *cobra.Command) {
	unquote := func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") }
	c.PersistentFlags().VisitAll(unquote)
	c.Flags().VisitAll(unquote)
	for _, sub := range c.Commands() {
		bare(sub)
	}
}
