package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/fleet"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/notify"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// usageError is a command line that says nothing we can do.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// configError is a configuration that cannot be used.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// inputError is a key that a person brought and that is none.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

// outcome is a command that was done and has a word to say by its exit code.
type outcome struct {
	code  int
	text  string
	hints []string // what to type, after the text; "" is none
}

func (o outcome) Error() string { return o.text }

// refusal is prestart keeping the daemon from starting.
type refusal struct {
	code    int
	verdict string
	keyfile string
	result  agent.GuardResult
}

func (r refusal) Error() string { return r.verdict + ": " + r.result.Decision.Reason }

// What several errors, verdicts and exit codes have for a hint.
const (
	seeKeys      = "see what every key opens: keyguard verify"
	seeCopies    = "see what every copy opens: keyguard verify; or bring a key yourself: keyguard import"
	keyElsewhere = "if you have the key elsewhere (a printed sheet, another store): keyguard import"
	oneKey       = "bring the table under one key: keyguard repair"
	saveOver     = "save a good copy over it: keyguard backup"
	mendDisk     = "see what is wrong with the disk (dmesg), put it right, then do the same again, or see: keyguard status"
	awaitIt      = "wait until it is done, then see: keyguard status"
)

// remedies maps errors to what to type next, and, where the error is the end of a
// command, to the exit code; 0 leaves that to an error further down, or to
// exitInternal, as "" leaves what to type. errors.Is finds them under any wrapping; the first that fits is
// taken, so the more special one stands first.
var remedies = []struct {
	err  error
	code int
	hint string
}{
	// It stands before errors that it brings about: with no instance left, watching any directory
	// fails like one that is full or not there.
	{unit.ErrInotifyInstances, 0, "until then it looks at every rescan; to raise the limit: sysctl -w fs.inotify.max_user_instances=1024, and the same in a file of /etc/sysctl.d; then: keyguard doctor"},
	{unit.ErrInotifyWatches, 0, "until then it looks at every rescan; to raise the limit: sysctl -w fs.inotify.max_user_watches=524288, and the same in a file of /etc/sysctl.d; then: keyguard doctor"},
	{syscall.EISDIR, 0, "a directory stands in the place of a file: see what is in it, move it away, then: keyguard status"},
	{syscall.EMFILE, 0, "this process may open too few files (ulimit -n, or LimitNOFILE= of the unit): raise it (ulimit -n 1024), then see: keyguard status"},
	{syscall.EFBIG, 0, "this process may write no larger files (ulimit -f, or LimitFSIZE= of the unit): raise it (ulimit -f unlimited), or have root raise the hard limit, then do the same again; how the key stands: keyguard status"},
	{syscall.ENFILE, 0, "this machine may open no more files (sysctl fs.file-max): see who holds them (lsof), then: keyguard status"},

	{escrow.ErrExposed, 0, "chown root and chmod go-rwx what is named; a stick without modes (FAT): mount it with umask=077; or seal its copies (recipients); then: keyguard backup"},
	{keyfile.ErrExposed, 0, "mount that file system (findmnt --target shows which, FAT or one of FUSE) with umask=077, or put another one there, then: systemctl restart containarium; where a key stood there, whoever could read it may have it; to have another one: keyguard rotate"},

	{hooks.ErrStateDir, exitInternal, "systemd starts it again within seconds; elsewhere: keyguard watch"},

	// What operations refuse.
	{agent.ErrNoEscrowNamed, exitUsage, "the names are those of the [[escrow]] tables: keyguard config"},
	{agent.ErrNoCopyNamed, exitNoCopy, "the ids are listed by: keyguard copies"},
	{agent.ErrNoKeyfile, exitRefused, "put the key back first: keyguard restore"},
	{agent.ErrNoUsableCopy, exitNoCopy, seeCopies},
	{rows.ErrInTheWay, 0, "see what it is and move it away, then have it written: keyguard init"},
	{crew.ErrNotFile, 0, "put what is meant into a file that only its owner can read (/dev/shm keeps none on a disk), and name that; which files the configuration names: keyguard config"},
	{agent.ErrNotReplaced, 0, "name a path where nothing is, or a file that may be replaced (metrics_file: \"\" writes none); which files the configuration names: keyguard config"},
	{crew.ErrLarge, 0, "see what is in it, and name the right file; which files the configuration names: keyguard config"},
	{crew.ErrHangs, exitDoubt, "see which file system hangs (findmnt, dmesg) and bring it back, or take it out of the configuration; a FIFO among the files that are named hangs, too; then: keyguard status"},
	{agent.ErrUnheard, exitDoubt, "bring back what cannot answer, then: keyguard restore; or bring a key yourself: keyguard import"},
	{agent.ErrRefused, exitRefused, "the present key stays; see what every key opens: keyguard verify"},
	{agent.ErrUnsure, exitDoubt, "bring Postgres up and try again; to vouch for the present keyfile yourself: keyguard accept"},
	{agent.ErrChanged, exitDoubt, "see how the key stands now: keyguard status; then do the same again"},
	{agent.ErrNothingToAccept, exitRefused, "put the right key back: keyguard restore; or make one where there never was one: keyguard accept --new"},
	{agent.ErrNotAccepted, exitBusy, ""},
	{agent.ErrNotDrilled, exitBusy, ""},
	{agent.ErrKeyThere, exitRefused, "to vouch for the key that is there: keyguard accept"},
	{fleet.ErrState, exitUsage, "name another file, or one that is not there: keyguard fleet --state FILE"},
	{agent.ErrRowsInTheWay, exitRefused, "look for the key that opens them: keyguard verify"},
	{agent.ErrBusy, exitBusy, "wait until the other process is done, then see: keyguard status; one that never ends waits for a file system that hangs (findmnt, dmesg)"},
	// What stands in the way of a rotation has a remedy of its own.
	{agent.ErrNotRotated, exitRefused, ""},
	{agent.ErrNotRepaired, exitRefused, ""},
	{agent.ErrNoEscrow, exitUsage, "name a place for copies: add an [[escrow]] to the configuration, then run: keyguard init"},
	{agent.ErrKeyNotRight, exitRefused, "see what every key opens: keyguard verify; put the right one in place: keyguard restore"},
	{agent.ErrSplitRows, exitRefused, "bring them under one key first: keyguard repair"},
	{agent.ErrNoRows, exitRefused, "there is nothing to re-encrypt; see: keyguard status"},
	{decide.ErrForeignCopy, 0, "if that copy is this host's own after all: keyguard accept; else give each host a place of its own in the configuration"},
	{agent.ErrOldCut, exitRefused, "put the old need back in the configuration, then: keyguard backup; when every store has its part, change need again, then: keyguard rotate"},
	{agent.ErrNeedAll, exitRefused, "add a member with a part of its own, or lower need, in the configuration, then: keyguard rotate; or go on as it is: keyguard rotate --need-all"},
	{agent.ErrOtherClients, exitRefused, "end these programs (they are in pg_stat_activity), then: keyguard rotate, or keyguard repair"},
	{agent.ErrCannotEnd, exitRefused, "see what holds the keyfile, its directory or the state directory (lsattr -d, findmnt --target, df, df -i), free it (chattr -i -a, umount), then: keyguard rotate, or keyguard repair"},
	{agent.ErrEnded, exitDoubt, "nothing is to be done: the daemon's next start, or the watcher, finds out from the rows which key holds; when the host is up again: keyguard status"},
	{agent.ErrNotStarted, exitInternal, "see why: systemctl status containarium; then: systemctl start containarium"},
	{agent.ErrUntold, 0, "systemctl restart containarium; then see: keyguard status"},
	{agent.ErrNotAgain, 0, "to ask at once: keyguard restore"},

	{config.ErrTrust, exitUsage, "look at what it says: keyguard config; then make it root's own: chown root and chmod go-w what is named"},

	// What a person brings.
	{key.ErrMangled, exitUsage, "the bytes are gone: take another copy, and use a tool that keeps bytes (to read: gcloud … --out-file; into Vault: base64 -w0 secrets.key | vault kv put … value=-)"},
	{key.ErrChecksum, exitUsage, "compare the words with the sheet, and type them again: keyguard import"},
	{key.ErrPartDamaged, exitUsage, "take that part again, from its store or its sheet, and feed all of them to: keyguard import"},
	{key.ErrPart, exitUsage, "one part is no key: feed as many as are needed, in any order, to one: keyguard import"},
	{key.ErrWrongParts, exitUsage, "one of them is not what it says: leave out one after the other, or bring another part: keyguard import"},
	{key.ErrParts, exitUsage, "choose numbers within these bounds: keyguard paper --split 2 --of 3"},
	{key.ErrSize, exitUsage, "a key is 32 raw bytes, 44 letters of base64, 64 of hex, or 24 words: keyguard import"},
	{key.ErrFingerprint, exitUsage, "fingerprints are listed by: keyguard copies"},

	// Escrows.
	{escrow.ErrNoEngine, 0, "enable it (vault secrets enable -path=… -version=2 kv), or correct mount and namespace of this escrow (keyguard config), then: keyguard init"},
	{escrow.ErrInTheWay, 0, "see what it is and move it away, or name another path in the configuration, then: keyguard init"},
	{escrow.ErrNoPlace, 0, "a stick must be mounted first; where it was never made, or is gone for good: keyguard init"},
	{escrow.ErrMisconfigured, 0, "correct what is named, in the configuration or, of a file's mode, with the chmod that stands there, and check it: keyguard config"},
	{escrow.ErrOnePlace, exitUsage, "see where path of each of these leads (realpath, findmnt), and give each a directory of its own: keyguard config"},
	{escrow.ErrAmbiguous, 0, "unplug one of them, or name the right one by UUID= in path of this escrow (lsblk --fs shows both), then: keyguard status"},
	{escrow.ErrAddOnly, 0, "look at it with credentials that may read, from another host: keyguard copies"},
	{escrow.ErrHeld, 0, "see what holds its directories, and whose they are (lsattr -d, ls -ld, findmnt --target), free them (chattr -i -a, mount without root_squash), then: keyguard backup"},
	{escrow.ErrDenied, 0, "grant this host the role (for Secret Manager: secretmanager.secretAccessor, secretVersionAdder and viewer; for Vault: the policy in the README; for AWS: that in the manual), then: keyguard status"},
	{escrow.ErrClock, 0, "set the clock (timedatectl status), then: keyguard status"},
	{escrow.ErrVaultToken, 0, "have a token with the README's policy made where Vault is administered (vault token create -policy=…), put it into token_file, which is named, and close that (chmod 0600); it is read again by itself; then: keyguard status"},
	{escrow.ErrVaultLogin, 0, "have a secret id made where Vault is administered (vault write -f auth/approle/role/…/secret-id), put it into secret_id_file, chmod 0600; role_id_file holds what auth/approle/role/…/role-id says; then: keyguard status"},
	{escrow.ErrUnauthenticated, 0, "check credentials_file of this escrow, token_file, role_id_file and secret_id_file, or the token in environment_file: keyguard config; whether the watcher, too, sees that file: keyguard doctor"},
	{escrow.ErrNeverLeft, 0, "bring the network up, then: keyguard status"},
	{escrow.ErrNoProc, 0, "mount it (mount -t proc proc /proc), then: keyguard status"},
	{escrow.ErrUntrusted, 0, "name the authority that signed the server's certificate in ca_file of this escrow, or have the certificate renewed, then: keyguard status"},
	{escrow.ErrNotStore, 0, "see what answers at address or endpoint of this escrow (a proxy, a log-in page, another server): curl; put that right, or the name (keyguard config), then: keyguard status"},
	{escrow.ErrStoreSealed, 0, "have it unsealed (vault operator unseal), or initialised where it never was (vault operator init), then: keyguard status"},
	{escrow.ErrNotServing, 0, "have what it says put right where it runs (its own log; vault status), or wait, then: keyguard status"},
	{escrow.ErrUnreachable, 0, "check network and firewall towards it (a stick: plug it in and mount it again), then: keyguard status"},
	{escrow.ErrTimeout, 0, "it did not answer in time; try: keyguard copies"},
	{escrow.ErrRateLimited, 0, "wait a minute, then: keyguard status"},
	{kinds.ErrUnsafe, 0, "make it root's own: chown root and chmod go-w what is named; then: keyguard status"},
	{escrow.ErrProgram, 0, "install it, or correct preset, save, list and fetch of this escrow: keyguard config"},
	{escrow.ErrLocation, 0, "name regions that the policy allows: replicas = [\"…\", \"…\"], or location for a regional secret, then: keyguard init"},
	{escrow.ErrGnuPG, 0, "renew or trust the key that .gpg-id in the password store names (gpg --edit-key), or name another one (pass init), then: keyguard backup"},
	{escrow.ErrEndOfTime, 0, "move the copy that is named away from there, or give its name the time that it is of, then: keyguard backup"},
	{escrow.ErrRefused, 0, "check the names of this escrow: keyguard config"},
	{escrow.ErrUnreadable, 0, "where the key is in place, put it on top again: keyguard backup; else enable the version in the store (in Vault: vault kv undelete; in AWS: aws secretsmanager restore-secret), or delete the entry that wrongly has the same name"},
	{escrow.ErrGone, 0, "list what is there: keyguard copies"},
	{escrow.ErrSealed, 0, "bring its identity: keyguard restore --identity FILE; or open it elsewhere (age --decrypt) and feed it to: keyguard import"},
	{escrow.ErrCorrupt, 0, saveOver},
	{escrow.ErrNotKey, 0, saveOver},
	{escrow.ErrSameDisk, 0, "a copy on the keyfile's own disk goes with it: name a path on another disk in the configuration, then: keyguard init"},
	{escrow.ErrReadOnly, 0, "mount it writable; or it lies outside of what the watcher's unit may write: keyguard doctor tells which; then: keyguard backup"},
	{escrow.ErrFull, 0, "make room there, then: keyguard backup"},
	{escrow.ErrPerhaps, 0, "bring back the store that is named, or save to the others: keyguard backup"},
	{escrow.ErrPartly, 0, "bring back the stores that are named, then: keyguard backup"},
	{escrow.ErrPartMoved, 0, "put the old number back at part of this member, or give the part a store of its own: keyguard config"},
	{escrow.ErrRecut, 0, "a new key is cut as configured: keyguard rotate; or put the old need back, then: keyguard config"},
	{escrow.ErrUnverified, 0, "grant this host the right to read it back, then: keyguard backup"},

	{agent.ErrNotSafe, exitRefused, "see what every escrow says: keyguard copies; save the present key: keyguard backup; then: keyguard rotate"},
	{agent.ErrNoHome, exitRefused, "see what every escrow says: keyguard copies; then: keyguard rotate"},

	// The database.
	{rows.ErrPassword, exitDoubt, "check the password where the daemon's database URL stands ([database] url_file), then: keyguard verify"},
	{rows.ErrNoDatabase, exitDoubt, "check the database's name in [database], then: keyguard verify"},
	{rows.ErrNoTable, exitDoubt, "is this the daemon's database? Check [database]. On a new host, where no secret was ever stored: keyguard accept, or, where there is no key yet, keyguard accept --new"},
	{rows.ErrShape, exitDoubt, "is this the daemon's database? Check [database], then: keyguard verify"},
	{rows.ErrEncoding, exitDoubt, "take client_encoding out of the database URL or PGOPTIONS, or as a superuser: ALTER ROLE … RESET client_encoding, ALTER DATABASE … RESET client_encoding; then: keyguard verify"},
	{rows.ErrURL, exitUsage, "have one line there, and nothing but a postgres:// URL in it, no quotes and no name before it (url_file or url in [database], or the daemon's own), then: keyguard verify"},
	{rows.ErrNotFile, exitDoubt, "name the right file there (in [database], or in the daemon's unit as the PG* variable of that name), then: keyguard verify"},
	{rows.ErrLoose, exitDoubt, "chmod 0600 the file that it names, then: keyguard verify"},
	{rows.ErrRecord, exitDoubt, "move it away, and have it written anew: keyguard init"},
	{rows.ErrDenied, exitDoubt, "the role needs SELECT on table secrets; check [database], then: keyguard verify"},
	{rows.ErrRowSecurity, exitDoubt, "use a role that owns the table or, where its policies are forced, has BYPASSRLS in [database], then: keyguard verify"},
	{rows.ErrRecovery, exitDoubt, "point [database] at the primary, then: keyguard verify"},
	{rows.ErrLocked, exitDoubt, "wait for the other session (pg_stat_activity), or end the transaction that was prepared (pg_prepared_xacts), then: keyguard verify"},
	{rows.ErrRotating, exitDoubt, "wait for the rotation to end, then: keyguard status"},
	{rows.ErrUnknownClass, exitDoubt, "a newer daemon may have written them: update this program, then: keyguard verify"},
	{rows.ErrOtherTable, exitDoubt, "see whose rows that table holds: psql; the daemon's: give it its name back (ALTER TABLE … RENAME TO secrets), attach it, or name its schema first in the role's search_path; nobody's: DROP TABLE; then: keyguard verify"},
	{rows.ErrElsewhere, exitDoubt, "find out which database the daemon uses and name it in [database], then: keyguard verify"},
	{rows.ErrComing, exitDoubt, "wait until that transaction, or the dump that is being loaded, is over (pg_stat_activity, pg_prepared_xacts); a subscription that is of no use any more: DROP SUBSCRIPTION; a table that no dump is loaded into: DROP TABLE, the daemon makes it; then: keyguard verify"},
	{rows.ErrChanging, exitDoubt, "try again when less is written: keyguard verify"},
	{rows.ErrNotListening, exitDoubt, "start Postgres, then: keyguard status"},
	{rows.ErrStarting, exitDoubt, "wait until Postgres is up, then: keyguard status"},
	{rows.ErrCrowded, exitDoubt, "free a connection in Postgres, or raise pool_size of the pooler before it, then: keyguard status"},
	{rows.ErrUnreachable, exitDoubt, "check network and address of Postgres in [database], then: keyguard status"},
	{rows.ErrTimeout, exitDoubt, "is Postgres up and not overloaded? Then: keyguard status"},
	{rows.ErrLost, exitDoubt, "is Postgres restarting? Then: keyguard status"},
	{rows.ErrServer, exitDoubt, "see Postgres' own log, then: keyguard verify"},
	{rows.ErrNonsense, exitDoubt, "see what answers there: it speaks like Postgres and is none, or something between spoils it; check [database], then: keyguard verify"},
	{rows.ErrConnection, exitDoubt, "check [database] in the configuration, then: keyguard verify"},
	{rows.ErrNoStandby, exitRefused, "connect the standby, or take it out: ALTER SYSTEM RESET synchronous_standby_names, SELECT pg_reload_conf(); then: keyguard rotate, or keyguard repair"},
	{rows.ErrMayNot, exitRefused, "use the daemon's own role in [database], or as a superuser: GRANT UPDATE ON secrets, GRANT TEMPORARY ON DATABASE, each to the role that is named, and where transactions are read-only: ALTER DATABASE (or ROLE) ... RESET default_transaction_read_only; then: keyguard rotate, or keyguard repair"},
	{rows.ErrUnopenable, exitRefused, "see what every key opens: keyguard verify; bring the key that is missing (keyguard import --escrow-only), or leave them as they are: --leave-unopenable"},
	{rows.ErrRotationHolds, exitBusy, awaitIt},
	{rows.ErrConcurrent, exitBusy, "nothing was changed; stop what writes to table secrets (pg_stat_activity, \\d secrets), then see: keyguard status"},
	{rows.ErrReadBack, exitRefused, "nothing was changed; drop what triggers and rules table secrets has (\\d secrets), then see: keyguard status"},
	{rows.ErrUnanswered, exitDoubt, "see which key the rows are under: keyguard verify"},
	{rows.ErrReadOnly, exitRefused, "nothing was changed; allow writing (default_transaction_read_only), then see: keyguard status"},
	{rows.ErrDiskFull, exitRefused, "nothing was changed; make room on the disk of Postgres for table secrets twice over, then see: keyguard status"},
	{rows.ErrStalled, exitDoubt, "see what stands between this host and Postgres (a proxy, a pooler, a firewall), or name the server itself in [database] url; which key the rows are under: keyguard verify"},
	{rows.ErrPooled, exitRefused, "nothing was changed; name the server itself in [database] url (not PgBouncer), or set pool_mode = session for this database, then: keyguard rotate"},
	{rows.ErrOldServer, exitRefused, "upgrade Postgres, then see: keyguard status"},
	{rows.ErrStopped, exitDoubt, "start the database's container: incus start containarium-core-postgres"},
	{rows.ErrNoAddress, exitDoubt, "wait for the container's address: incus list"},
	{rows.ErrSeveral, exitDoubt, "name the right database in [database] of the configuration, then: keyguard verify"},
	{rows.ErrRemains, exitDoubt, "bring the database's container back: incus list --all-projects"},
	{unit.ErrEnvironmentFile, exitDoubt, "put the file right that EnvironmentFile= of the daemon's unit names (systemctl cat containarium.service), then: keyguard verify"},
	{rows.ErrUnread, exitDoubt, "see that systemd answers and the unit's EnvironmentFile= can be read (systemctl cat containarium.service), or name the database in [database]"},
	{rows.ErrIncus, exitDoubt, "start incus (systemctl start incus), or name the database in [database]"},

	// After what keeps it from being settled.
	{agent.ErrRotationOpen, exitRefused, "to settle it: keyguard rotate, which goes on; or systemctl restart containarium"},

	// This host.
	{ledger.ErrMovedOn, exitBusy, "another process has written it at this moment; see how the key stands now: keyguard status"},
	{agent.ErrOvertaken, exitBusy, "rows are being loaded, the database comes or goes, or another brings a key to the escrow that is named; wait until that is done, then see: keyguard status"},
	{keyfile.ErrChanged, exitBusy, "somebody else writes the keyfile at this moment; look who, then: keyguard status"},
	{keyfile.ErrNotMemory, exitDoubt, "put run_dir on a tmpfs (keyguard config prints its place), or let systemd do it: systemctl start containarium-keyguard-drill"},
	{keyfile.ErrNotKept, 0, "what was there stays beside the keyfile, under a name with a dot and a time; see what keeps the local quarantine, in the state directory, from taking it (ls -ld, lsattr -d, findmnt --target, df), free it (chattr -i -a; what is no directory: move it away), then: keyguard status"},
	{keyfile.ErrNotSynced, 0, mendDisk},
	{ledger.ErrNoLedger, exitDoubt, "see what stands there and move it away; then, if you are sure of the key that is in place: keyguard accept"},
	{textfile.ErrNotWritten, 0, "name a metrics_file in a directory that keyguard's units may write to, or let them write there: keyguard doctor says how"},
	{notify.ErrNotRun, 0, "chmod 0755 the hook and name it with letters, digits, _ and - alone, or take it out of hooks_dir: keyguard config"},
	{unit.ErrKilled, exitDoubt, "what was begun is settled by the watcher, or by the daemon's next start; see how it ended: keyguard status"},
	{unit.ErrExists, exitBusy, awaitIt},
	{notify.ErrPing, 0, "check ping_url: keyguard config; and whether this host gets there: curl"},
	{unit.ErrSilent, 0, "see what keeps it (systemctl status, systemctl status dbus), and, where nothing helps, restart this machine; then: keyguard status"},
	{unit.ErrNoUnit, 0, "name the daemon's unit in [daemon] of the configuration, or \"\" for none, then: keyguard config"},
	{syscall.ENOSPC, 0, "make room on the disk (df), then try again"},
	{syscall.EIO, 0, mendDisk},
	{syscall.EROFS, 0, "the file system is read-only; see dmesg, remount it writable (mount -o remount,rw), then see: keyguard status"},
	{errRefuted, exitDoubt, "see what is wrong, then: keyguard status"},
	{agent.ErrNotPlaced, exitDoubt, "see what holds the keyfile, its directory or the state directory (lsattr -d, ls -ld, findmnt --target) and free it (chattr -i -a, umount), then: systemctl start containarium"},
	{keyfile.ErrImmutable, 0, "take from what is named the i that lsattr -d shows (chattr -i), then do the same again; how the key stands: keyguard status"},
	{syscall.EBUSY, 0, "something holds it, a mount or another program; see which: findmnt, fuser -v; then: keyguard status"},
	{fs.ErrPermission, 0, "run it as root, with sudo"},
}

// lastWord is the hint where nothing that went wrong has a remedy of its own.
var lastWord = map[int]string{
	exitInternal: "this should not happen; see how the key stands: keyguard status",
	exitUsage:    "see what there is: keyguard --help",
	exitLost:     keyElsewhere,
	exitDoubt:    seeKeys,
	exitEscrow:   "see what every escrow says: keyguard copies; and all else: keyguard status",
	exitNoCopy:   seeCopies,
	exitRefused:  seeKeys,
	exitBusy:     "wait until the other process is done, then see: keyguard status",
}

// exitCode finds the code for what a command returned.
func exitCode(err error) int {
	var (
		usage  usageError
		conf   configError
		input  inputError
		done   outcome
		refuse refusal
		told   exitStatus
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &told):
		return int(told)
	case errors.As(err, &usage), errors.As(err, &conf), errors.As(err, &input):
		return exitUsage
	case errors.As(err, &done):
		return done.code
	case errors.As(err, &refuse):
		return refuse.code
	}
	for _, r := range remedies {
		if r.code != 0 && errors.Is(err, r.err) {
			return r.code
		}
	}
	return exitInternal
}

// explain prints an error with what to do about it, and returns the exit code.
func (a *app) explain(err error) int {
	if refuse, ok := errors.AsType[refusal](err); ok {
		a.explainRefusal(refuse)
		return refuse.code
	}
	if told, ok := errors.AsType[exitStatus](err); ok {
		return int(told)
	}
	for _, line := range linesOf(err) {
		a.urgent("%s", line)
	}
	var (
		usage usageError
		conf  configError
		input inputError
		done  outcome
	)
	switch {
	case errors.As(err, &usage):
		a.hint(strings.TrimSuffix(cmp.Or(a.command, "keyguard"), " help") + " --help")
	case errors.As(err, &done):
		for _, h := range slices.Compact(done.hints) {
			if h != "" {
				a.hint(h)
			}
		}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		a.remedy(err)
	case errors.As(err, &conf) && errors.Is(err, crew.ErrHangs):
		a.remedy(crew.ErrHangs)
	case errors.As(err, &conf) && errors.Is(err, fs.ErrPermission):
		a.remedy(fs.ErrPermission)
	case errors.As(err, &conf) && errors.Is(err, fs.ErrNotExist):
		a.hint("keyguard init makes it; or name another file: --config, or KEYGUARD_CONFIG")
	case errors.Is(err, config.ErrTrust):
		a.remedy(err)
	case errors.As(err, &conf):
		a.hint("correct " + a.configPath() + " and check it: keyguard config")
	case errors.As(err, &input) && remedyOf(err) == remedyOf(key.ErrNotKey):
		a.hint("a key is 32 raw bytes, 44 letters of base64, 64 of hex, or 24 words; feed one of these to: keyguard import")
	default:
		a.remedy(err)
	}
	code := exitCode(err)
	if !a.hinted.Load() {
		a.hint(lastWord[code])
	}
	if !a.hinted.Load() { // which would have been to type the same again
		a.hint("how the key stands all the same: keyguard status")
	}
	return code
}

// linesOf is what an error says. Only the problems of a configuration stand on several
// lines; a line break in another error is one that somebody put into a name (law 10).
func linesOf(err error) []string {
	if _, ok := errors.AsType[*config.Problems](err); ok {
		return strings.Split(err.Error(), "\n")
	}
	return []string{err.Error()}
}

// remedy prints the first hint that fits.
func (a *app) remedy(err error) {
	if hint := remedyOf(err); hint != "" {
		a.hint(hint)
	}
}

// saveAndTry ends what a drill, or whoever reads a part, has found.
const saveAndTry = "save it there again, and have it tried: keyguard backup; then: keyguard drill"

// remedyOf is the first hint that fits, "" for none.
func remedyOf(err error) string {
	if at, ok := errors.AsType[*rows.PlaceError](err); ok {
		return remedyAt(at)
	}
	if e, ok := errors.AsType[*escrow.TroubleError](err); ok {
		return troubleRemedy(e)
	}
	if e, ok := errors.AsType[*escrow.PartsError](err); ok && errors.Is(err, escrow.ErrPartly) {
		switch missing := func(err error) bool { return errors.Is(err, escrow.ErrNoPlace) }; {
		case slices.ContainsFunc(e.Errors, missing):
			return "bring back the stores that are named; where one was never made, or is gone for good: keyguard init; then: keyguard backup"
		case len(e.Bare) > 0 && len(e.Bare) == len(e.Errors):
			return saveAndTry
		}
	}
	for _, r := range remedies {
		if r.hint != "" && errors.Is(err, r.err) {
			if r.err == fs.ErrPermission && os.Geteuid() == 0 {
				return refusedToRoot
			}
			return r.hint
		}
	}
	return ""
}

// remedyAt names the place at which what is wrong with the database's URL stands.
func remedyAt(at *rows.PlaceError) string {
	where := printable.Line(at.From)
	switch {
	case strings.HasPrefix(where, "CONTAINARIUM_"), strings.HasPrefix(where, "the daemon's"):
		where += ", which stands in the daemon's unit or a file that this names (systemctl cat containarium.service)"
	case strings.HasPrefix(where, "incus"):
		where += ": it is what CONTAINARIUM_POSTGRES_PASSWORD_FILE or CONTAINARIUM_POSTGRES_PASSWORD of the daemon's unit says (systemctl cat containarium.service), else the word containarium"
	}
	if errors.Is(at, rows.ErrPassword) {
		return "the password is from " + where + "; put that right, or have the role take it (ALTER ROLE … PASSWORD), then: keyguard verify"
	}
	return "the database's name is from " + where + "; put that right, then: keyguard verify"
}

// refusedToRoot is the hint where what is denied is denied to root, whom no mode stops.
const refusedToRoot = "root is refused: the file is immutable (lsattr shows an i; chattr -i takes it away), the file system denies it (findmnt), or a sandbox does (systemctl cat, for what the watcher may reach: keyguard doctor)"

// urgent prints a message that a person should see even in a long journal.
func (a *app) urgent(format string, args ...any) {
	level := a.level
	if level != "" {
		level = "<3>" // err; sd-daemon(3)
	}
	fmt.Fprint(a.err, level+fold(a.err, "keyguard: "+fmt.Sprintf(format, args...)))
}

func (a *app) explainTrouble(trouble []agent.Trouble) {
	for _, t := range trouble {
		a.urgent("%v", t)
		a.remedy(t)
	}
}

// explainRefusal tells someone woken at night what was needed, what was tried, and
// what to type. That the daemon is not started was told as an event.
func (a *app) explainRefusal(r refusal) {
	a.explainSearch(r.result)
	a.urgent("the keyfile's place was left as it is, and the daemon makes no key")
	a.hintAtKey(r.result)
}

// hintAtKey says what to type where nobody can tell which key is right.
func (a *app) hintAtKey(r agent.GuardResult) {
	e := r.Evidence
	switch {
	case r.Decision.Action == decide.Lost:
		a.hint(keyElsewhere)
		a.hint("what every key opens: keyguard verify")
	case e.Rows.State == decide.RowsUnknown:
		a.remedy(e.Rows.Err)
		switch {
		case e.OpenRotation() != nil: // which the rows settle, whatever a person says
		case e.Keyfile.Good && !r.Parked:
			a.hint("if you are sure of the key that is there: keyguard accept")
		case e.Keyfile.Good && r.Decision.Needed == "": // an empty file stands there now
			a.hint(fmt.Sprintf("if you are sure of key %s, which stood there: keyguard import, with its file from the quarantine in the state directory on standard input", e.Keyfile.Key))
		default:
			a.hint("if you have the key elsewhere: keyguard import")
		}
	case e.Rows.State == decide.RowsSilent:
		a.hint("when the escrow answers again: keyguard restore; " + noCopy)
	default: // rows depend on a key: a new one would open none of them
		a.hint("when the escrow answers again: keyguard restore; if you have the key elsewhere: keyguard import")
	}
}

// explainSearch lists the key that is needed and the copies that were tried.
func (a *app) explainSearch(r agent.GuardResult) {
	e := r.Evidence
	a.urgent("the keyfile is %s", e.Keyfile.State())
	if r.Decision.Needed != "" {
		a.urgent("needed is key %s, the last that was known to be right here", r.Decision.Needed)
	}
	opened := func(f key.Fingerprint) string {
		if p, ok := e.Rows.Proofs[f]; ok && f != "" {
			return "opens " + p.String()
		}
		return "not tried on the rows"
	}
	if e.Keyfile.Key != "" {
		a.urgent("tried the keyfile: key %s, %s", e.Keyfile.Key, opened(e.Keyfile.Key))
	}
	for _, f := range e.Local.Keys {
		a.urgent("tried the local quarantine: key %s, %s", f, opened(f))
	}
	for _, s := range e.Escrows {
		switch s.State {
		case decide.EscrowFailed:
			a.urgent("escrow %q cannot answer: %s", s.Name, s.Why)
			a.remedy(s.Err)
		case decide.EscrowAnswered:
			switch {
			case len(s.Copies) > 0:
			case s.Remembered:
				a.urgent("escrow %q held no copies when it was asked last, and is not asked again yet", s.Name)
			default:
				a.urgent("escrow %q holds no copies", s.Name)
			}
		}
		for _, c := range s.Copies {
			if c.Unreadable != "" {
				a.urgent("escrow %q, copy %s: %s", s.Name, c.ID, c.Unreadable)
				switch {
				case c.Worthless:
				case c.Sealed:
					a.remedy(escrow.ErrSealed)
				default:
					a.remedy(escrow.ErrUnreadable)
				}
			} else {
				a.urgent("escrow %q, copy %s: key %s, %s", s.Name, c.ID, orNone(c.Key), opened(c.Key))
			}
		}
	}
}

func orNone(f key.Fingerprint) string {
	if f == "" {
		return "none"
	}
	return string(f)
}
