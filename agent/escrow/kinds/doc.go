// Package kinds has the kinds of escrow, each in the file of its name and in those that begin with
// it: gcp.go (Google Secret Manager), vault.go (Vault and OpenBao), aws.go (AWS Secrets Manager),
// directory.go (a USB stick, NFS, another disk; with disk.go, stick.go, locate.go, and bounded.go, by
// which one that hangs can be left), command.go (a password manager), and split.go over several of
// these. What they share is in listing.go (how much of a shelf is shown, and that only a listing tells
// the newest copy), names.go and partname.go (what a shelf, a copy and a part are called), seal.go
// (age), credentials.go (how much is read of those), wire.go (what goes wrong on the way),
// examine.go (what the doctor asks a store) and fleet.go (a store seen over many hosts).
//
// What each of them promises is the contract of package escrow.
package kinds
