package start

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

const (
	// databaseRecord, in the runtime directory, is where the daemon has its database.
	databaseRecord = "database.json"
	// startRecord, beside it, is what a start left for the daemon's last start.
	startRecord = "started.json"
	// quarantineDir, in the state directory, is the local quarantine.
	quarantineDir = "quarantine"
)

// ConfigPath is the configuration file: the one that was given, or the environment's, or the
// one of the package.
func ConfigPath(given string) string {
	if given != "" {
		return given
	}
	if path := os.Getenv("KEYGUARD_CONFIG"); path != "" {
		return path
	}
	return config.DefaultPath
}

// Host is what operations work on, as far as it stands on this host. It touches nothing
// outside the process.
func Host(cfg *config.Config, version string) *agent.Host {
	id := machine()
	return &agent.Host{
		Keyfile:  keyfile.File{Path: cfg.Keyfile, Owner: cfg.UID, Group: cfg.GID, Quarantine: QuarantineDir(cfg), Locks: cfg.StateDir},
		Ledger:   ledger.Open(cfg.StateDir, ledger.Options{Host: Hostname(), Machine: id, Version: version, Config: cfg.Digest}),
		StateDir: cfg.StateDir,
		Left:     filepath.Join(cfg.RunDir, startRecord),
		Besides:  Besides(cfg),
		Machine:  id,
		Now:      time.Now,
	}
}

// QuarantineDir is the local quarantine.
func QuarantineDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, quarantineDir) }

// DatabaseRecord is the file that says where the daemon has its database.
func DatabaseRecord(cfg *config.Config) string { return filepath.Join(cfg.RunDir, databaseRecord) }

// Besides are the directories that keyguard works with besides the keyfile's and its state's.
func Besides(cfg *config.Config) []string {
	dirs := []string{cfg.RunDir}
	if cfg.Notify.HooksDir != "" {
		dirs = append(dirs, cfg.Notify.HooksDir)
	}
	if cfg.Notify.MetricsFile != "" {
		dirs = append(dirs, filepath.Dir(cfg.Notify.MetricsFile))
	}
	return dirs
}

// Hostname is the name of this host, for people.
func Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// machine tells this machine from a clone of it, "" where nobody knows. The id itself is
// not for others to see, machine-id(5); what is made of it for one program is.
func machine() string {
	id, err := crew.Within("/etc", func() ([]byte, error) { return os.ReadFile("/etc/machine-id") }, nil)
	if err != nil || len(strings.TrimSpace(string(id))) != 32 { // "uninitialized"
		return ""
	}
	mac := hmac.New(sha256.New, []byte(strings.TrimSpace(string(id))))
	mac.Write([]byte("keyguard machine v1"))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// Inherited is what the daemon's environment says of its database. Whether --postgres stands on
// the daemon's command line only systemd knows, and on the healthy path nobody is asked (law 7).
func Inherited() rows.LocateOptions {
	return rows.LocateOptions{Environ: os.Environ(), Inherited: true, Unread: rows.ErrUnread}
}

// NoteLeft records, in a file of the runtime directory, which key the daemon finds that systemd starts now.
func NoteLeft(h *agent.Host, f key.Fingerprint) error {
	return agent.NoteLeft(h, os.Getenv("INVOCATION_ID"), f)
}
