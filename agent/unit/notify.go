package unit

import (
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Notify tells systemd how this service is (sd_notify(3)): Ready, Reloading, Stopping,
// Alive or a Status. Outside a unit of Type=notify it does nothing. That systemd cannot
// be told is no reason to stop: it notices by itself.
func Notify(state string) { _, _ = daemon.SdNotify(false, state) }

// What a service can say of itself.
const (
	NowReady = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
	Alive    = daemon.SdNotifyWatchdog
)

// Reloading is what Type=notify-reload wants to hear: the time of CLOCK_MONOTONIC with it.
func Reloading() string {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it cannot fail for this clock
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, t.Nano()/1000)
}

// Status is the line that systemctl status shows. A second line would be another message.
func Status(text string) string { return "STATUS=" + printable.Line(text) }

// WatchdogEvery is how often Alive is expected, WatchdogSec= of the unit; 0 for never.
func WatchdogEvery() time.Duration {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return every
}
