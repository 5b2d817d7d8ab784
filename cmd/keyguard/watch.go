package main

import (
	"cmp"
	"context"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "look after the key while the daemon runs",
		Long: `watch escrows the key when it changes, puts it back when it is lost or damaged,
and puts the right key in where the daemon was started without one. It proves
the key on the rows every hour. SIGHUP reads the configuration again.

Exit status: 0 stopped; 2 usage or configuration; 15 another one is running.`,
		Example: `  systemctl status containarium-keyguard
  systemctl reload containarium-keyguard   # after a change of the configuration
  journalctl -u containarium-keyguard        # what it saw and did`,
		RunE: func(c *cobra.Command, _ []string) error { return a.watch(c.Context()) },
	}
}

// lastMoment is how long the end of a watcher waits for what is under way.
const lastMoment = 800 * time.Millisecond

func (a *app) watch(ctx context.Context) error {
	if _, ok := os.LookupEnv("JOURNAL_STREAM"); ok {
		a.level = "<6>" // informational; sd-daemon(3)
	}
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	hold, err := agent.HoldWatch(h)
	if err != nil {
		return err
	}
	defer hold.Release()
	defer unit.Notify(unit.Stopping)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var line statusLine
	for {
		running, stop := context.WithCancel(ctx)
		ended := crew.Go(func() error { return a.watchAndTell(running, h, cfg, hold, &line) })
		reload := false
		for !reload {
			select {
			case <-ctx.Done():
				stop()
				select {
				case err := <-ended:
					return err
				case <-time.After(lastMoment):
					return nil // what hangs for good is left behind: systemd waits
				}
			case err := <-ended:
				stop()
				return err
			case <-hangup:
				unit.Notify(unit.Reloading())
				newHost, newCfg := a.reload(cfg, &line)
				if newCfg == nil {
					unit.Notify(unit.NowReady)
					break
				}
				h, cfg, reload = newHost, newCfg, true
			}
		}
		stop()
		if err := <-ended; err != nil {
			return err
		}
		a.say("the configuration is reloaded")
	}
}

// reload opens what the configuration names now; nothing where what is in force stays.
func (a *app) reload(inForce *config.Config, line *statusLine) (*agent.Host, *config.Config) {
	h, cfg, err := a.open()
	switch {
	case err != nil:
		a.explain(err)
		a.urgent("the configuration is not reloaded; what was in force stays")
		line.note("the changed configuration is not in force: " + err.Error())
		return nil, nil
	case cfg.StateDir != inForce.StateDir:
		const restart = "state_dir has changed, and that takes a restart: systemctl restart containarium-keyguard"
		a.urgent(restart)
		line.note(restart)
		return nil, nil
	}
	line.note("")
	return h, cfg
}

// watchAndTell watches, and delivers what is told meanwhile.
func (a *app) watchAndTell(ctx context.Context, h *agent.Host, cfg *config.Config, hold agent.WatchHold, line *statusLine) error {
	t := a.teller(h, cfg, wiring{}, a.printEvent)
	ctx, stop := context.WithCancel(ctx)
	telling, ctx := crew.WithContext(ctx)
	telling.Go(func() error { t.Run(ctx); return nil })
	err := crew.Do(func() error { return hooks.Watch(ctx, h, a.watchOptions(cfg, t, hold, line)) })
	stop()
	return cmp.Or(err, telling.Wait())
}

// statusLine is what systemctl status shows of the watcher: what the last round found, and
// before it what is wrong for longer than a round.
type statusLine struct {
	lock         sync.Mutex
	round, noted string
}

func (l *statusLine) say(round string) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.round = round
	l.show()
}

func (l *statusLine) note(text string) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.noted = text
	l.show()
}

func (l *statusLine) show() {
	text := l.round
	if l.noted != "" {
		text = l.noted + "; " + text
	}
	unit.Notify(unit.Status(strings.ReplaceAll(text, "\n", "; ")))
}

func (a *app) watchOptions(cfg *config.Config, t *hooks.Teller, hold agent.WatchHold, line *statusLine) hooks.WatchOptions {
	o := hooks.WatchOptions{
		Debounce: cfg.Watch.Debounce, Rescan: cfg.Watch.Rescan, Heal: cfg.Watch.Heal,
		RunDir: cfg.RunDir, Configuration: cfg.Digest,
		Ready:     func() { unit.Notify(unit.NowReady) },
		Status:    line.say,
		Beat:      func() { unit.Notify(unit.Alive) },
		BeatEvery: unit.WatchdogEvery() / 2,
		Tell:      t.Tell,
		Stands:    hold.Stands,
	}
	if cfg.Daemon.Unit != "" {
		names := daemonUnits(cfg)
		o.Follow = func(ctx context.Context, line func(unit.Line)) error { return unit.Follow(ctx, names, line) }
		o.Restart = func(ctx context.Context, invocation string) error { return unit.Restart(ctx, invocation, names...) }
	}
	return o
}
