package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// alertTelling bounds how long hooks and the dead-man's switch may take.
const alertTelling = 30 * time.Second

// testAlert is what stands in the place of a unit where nothing has failed.
const testAlert = "test"

func (a *app) alertCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "alert UNIT",
		Short: "tell people that a unit of keyguard's failed",
		Long: `alert tells journal, hooks, dead-man's switch and metrics that a unit of
keyguard's failed. systemd calls it.

Of the unit "test" it tells journal and hooks alone, and that it is a test: an
urgent event of that name, which is in no metrics and no report.

Exit status: 0 it was told; 1 a test did not reach all whom it should have,
which is said; 2 usage.`,
		Example: `  keyguard alert test             # does it reach you? And from its sandbox:
  systemctl start containarium-keyguard-alert@test.service`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%s takes the name of one unit", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return a.alert(c.Context(), args[0]) },
	}
}

// alert goes by the defaults where the configuration cannot be used: that may be why
// the unit has failed.
func (a *app) alert(ctx context.Context, name string) error {
	if _, ok := os.LookupEnv("JOURNAL_STREAM"); ok {
		a.level = "<6>" // informational; sd-daemon(3)
	}
	h, cfg, err := a.open()
	if err != nil {
		a.explain(err)
		cfg = config.Default()
		if h, err = a.host(cfg, wiring{}); err != nil {
			return err
		}
	}
	t := a.teller(h, cfg, wiring{}, a.printEvent)
	deliver := func() {
		telling, cancel := context.WithTimeout(ctx, alertTelling)
		defer cancel()
		t.Deliver(telling)
	}
	if name == testAlert {
		t.Tell(hooks.Event{Name: hooks.Test, Text: "this is a test of keyguard's alerts, by " + person() + ": nothing has failed"})
		deliver()
		if t.Failed() {
			return outcome{exitInternal, "the test did not reach all whom it should have", []string{"put right what is named above, then: keyguard alert test"}}
		}
		return nil
	}
	defer deliver()
	// systemd.exec(5): of a unit that OnFailure= started.
	how := strings.TrimRight(os.Getenv("MONITOR_SERVICE_RESULT")+" "+os.Getenv("MONITOR_EXIT_STATUS"), " ")
	e := hooks.Event{Name: hooks.UnitFailed, Unit: name, Text: name + " failed"}
	if how != "" {
		e.Text += fmt.Sprintf(" (%s)", how)
	}
	if err := h.Append(ledger.Entry{Event: ledger.UnitFailed, Unit: name, Reason: how}); err != nil {
		a.explain(err)
	}
	e.Text += ": systemctl status " + name
	t.Tell(e)
	return nil
}
