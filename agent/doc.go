// Package agent knows what is right for the key of one host, and prints nothing.
//
// An operation is a function of a Host, mostly with a context and options, that returns a result
// and neither prints nor exits. It stands in the file of its name, or of what it belongs to:
//
//	guard      puts the keyfile right before the daemon starts: observe, decide, act; park
//	           puts an empty one there where nobody can decide
//	tend       the same while it runs, and less; watchlock lets one watcher live, keyread says
//	           which key a start of the daemon has read
//	observe    gathers the evidence that decide asks for, cheapest first; inventory fetches
//	           copies as evidence, for all but a drill
//	due        brings to an escrow what is due there, and backup the present key now; save is how
//	           one key gets into one escrow; revisit asks one where nothing is due
//	init       makes the places, and then does what backup does; tryplace tries one that is not
//	           configured yet
//	restore    puts a copy back, import what a person brings; replace is what both do
//	accept     takes a person's word for a key; paper takes the key out for a printed sheet
//	rotate     a new key, and every row under it; repair, one key for a table that is split;
//	           downtime is what both do while the daemon is down, daemon how it is stopped;
//	           both have rows/rewrite.go bring all rows under one key in one transaction, and
//	           that has rows/reseal.go do each; rotatesettle closes a rotation that stopped
//	           halfway
//	drill      restores copies into scratch and proves them, of a key in parts every part;
//	           drillpart proves a part that a person holds
//	verify     tries every key on the rows; copies lists what every escrow holds
//	status     what of the key can be told to people, from all that can be asked; statusverdict
//	           says when it is green, and words its first line; alive, how the daemon, our units
//	           and a rotation under way stand to the key; survey, what this host alone can tell
//	report     what the ledger can show an auditor
//	doctor     what is wrong with this host: doctorthreats, which of the runbook's threats it
//	           survives, doctorchecks, what to put right, doctorparts, of a key in parts;
//	           sandbox, what its units may reach
//	host       what all of these work on
//
// Package decide, below and pure, says which key the daemon may start with, on which shelf a
// key may be saved, and whether another host writes there. Each leaf below owns one outside thing and knows no other leaf:
//
//	keyfile    the live key, its asides and the local quarantine
//	rows       the ciphertext in Postgres, and where that is
//	escrow     what a place off this host promises; the kinds of them, with the stores' clients, are in
//	           escrow/kinds, each in the file of its name and some beside it, which only cmd links
//	ledger     keyguard's own record on this host
//	config     the configuration file
//	unit       systemd: the daemon's unit, the journal, sd_notify
//	notify     hooks.d and pings
//	textfile   a file of metrics for Prometheus
//	paper      pages to print
//
// They share key (the secret and its forms), printable (what others wrote, for a terminal),
// crew (goroutines whose panics are errors) and internal: durable writes, locks, other
// programs, recipients of sealed copies. Package fleet joins what is known of many hosts,
// for whoever looks after all of them. Above, hooks are the moments at which systemd
// calls, and cmd/keyguard talks to people. Package worlds plays random histories around agent
// and hooks.Prestart in tests.
//
// # Words
//
// A key is 32 secret bytes, and a fingerprint its public name. The keyfile is the
// live key on this host. Rows are the ciphertext; a dependent row is one that only
// the keyfile's key can open. A proof is the outcome of trying a key on dependent
// rows, and its verdict one of Opens (all), Partial (some), Refuted (none), Silent
// (there is positively no dependent row, or no database yet) and Unknown (could not
// look). An escrow is a place off this host that keeps copies; a copy stands on the
// current shelf or on the quarantine shelf. The ledger is keyguard's append-only
// record on this host: a key in it is accepted (a person's word), proven (it opened
// the rows) or contradicted (later it opened none). The known key is that of the
// last proven or accepted entry, and none if it was contradicted since, a rotation was
// closed with neither of its keys known, or the chain is broken after that entry. The local
// quarantine keeps every key that left the keyfile's place. To park is to start the
// daemon on an empty keyfile: secrets disabled, nothing minted.
//
// # Laws
//
// Code and tests cite them by number; docs/design.md has them whole.
//
//  1. The rows are the judge. Fingerprints, version numbers, "latest" and times are
//     hearsay that orders the candidates.
//  2. Never a minted key over old ciphertext: the daemon does not start with a fresh
//     key while ciphertext or copies under another exist, or may exist.
//  3. No key is ever destroyed. What leaves the keyfile's place is kept, first beside
//     it and then in the local quarantine; no copy in an escrow is deleted, and nothing
//     here can delete one.
//  4. No poison. A key becomes a current copy when it opens all rows, or most of them;
//     when the rows are Silent or Unknown and it is known by such a proof; or when they are
//     Silent and no other key was ever proven here or stands on a current shelf. All else
//     goes to quarantine until it does. Each save judges by what stands there then, and
//     while a rotation is open nothing goes to a current shelf.
//     Where the newest current copy is not one that this host saved, another host or a
//     person writes there: only quarantine is written, until a person accepts.
//  5. Durable before dependent. A step is on disk, or stored and read back, before the
//     next relies on it.
//  6. "Don't know" is not "no". Unreachable, denied, timed out, not initialised and
//     absent are different answers, in types. What was answered before is hearsay: it may
//     spare a call, and never says "no copies", lost or first start.
//  7. The healthy path is local: a known key passes without opening a socket where it was
//     proven, or accepted when the rows could be asked, at most 25 hours ago.
//  8. The key goes nowhere else: not to arguments, environment, logs, errors, core
//     dumps, swap or temporary disk. Nothing listens.
//  9. The daemon is not ours to break. Nothing hangs a start, holds a lock on the
//     database across one, restarts the daemon on install or upgrade, or hammers a
//     store. Trouble of keyguard's own never stops a daemon whose keyfile has 32 bytes,
//     unless the rows have just refuted them or a .next stands beside them: laws 1 and 2 stand above this one. Whoever
//     waits can walk away, whichever file system hangs.
//  10. What others wrote is hostile: names, ids, messages, rows and log lines of stores,
//     database, sticks and the daemon are bounded, shown on one printable line (package
//     printable), and steer nothing unless they come from where they must.
package agent
