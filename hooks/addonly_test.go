package hooks

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/awssecrets"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// addOnly is a store to which a host may add copies, and whose copies it may not read.
type addOnly struct {
	open func() (escrow.Escrow, error) // as a watcher that has just started
	shut func()                        // from now on it may only add
	read func()                        // and now it may do all again
	call func() int                    // requests so far
}

func sum(calls map[string]int) (n int) {
	for method, times := range calls {
		if method != "token" {
			n += times
		}
	}
	return n
}

var addOnlyStores = map[string]func(*testing.T, func(name string, data []byte) string) addOnly{
	"gcp": func(t *testing.T, file func(string, []byte) string) addOnly {
		const who = "host@keyguard-test.iam.gserviceaccount.com"
		s, err := secretmanager.Start(secretmanager.Options{Unlimited: true})
		must(t, err)
		t.Cleanup(s.Close)
		s.Grant(who, secretmanager.Admin)
		credentials, err := s.Credentials(who, "service_account")
		must(t, err)
		o := kinds.GCPOptions{Name: "store", Project: "keyguard-test", Secret: "master", Endpoint: s.Addr(), Plaintext: true, CredentialsFile: file("gcp.json", credentials)}
		return addOnly{
			open: func() (escrow.Escrow, error) { return kinds.NewGCP(o) },
			shut: func() { s.Forget(who); s.Grant(who, secretmanager.Adder) },
			read: func() { s.Grant(who, secretmanager.Admin) },
			call: func() int { return sum(s.Calls()) },
		}
	},
	"vault": func(t *testing.T, file func(string, []byte) string) addOnly {
		s, err := vault.Start(vault.Options{})
		must(t, err)
		t.Cleanup(s.Close)
		s.Mount("secret", 2)
		all := func() { s.Policy("keyguard", vault.Keyguard(2, "secret", "hosts/h1/master")) }
		all()
		o := kinds.VaultOptions{Name: "store", Address: s.URL(), Mount: "secret", Path: "hosts/h1/master",
			TokenFile: file("token", []byte(s.Token(vault.TokenOptions{Policies: []string{"keyguard"}})))}
		return addOnly{
			open: func() (escrow.Escrow, error) { return kinds.NewVault(o) },
			shut: func() {
				p := vault.Keyguard(2, "secret", "hosts/h1/master")
				for path, can := range p {
					p[path] = slices.DeleteFunc(can, func(c string) bool { return c != "create" && c != "update" })
				}
				s.Policy("keyguard", p)
			},
			read: all,
			call: func() int { return sum(s.Calls()) },
		}
	},
	"aws": func(t *testing.T, file func(string, []byte) string) addOnly {
		s := awssecrets.Start(awssecrets.Options{})
		t.Cleanup(s.Close)
		who := s.Grant(awssecrets.Actions...)
		o := kinds.AWSOptions{Name: "store", Region: s.Region(), Secret: "master", Endpoint: s.Addr(), Plaintext: true,
			Credentials: kinds.AWSCredentials{Kind: kinds.AWSFile, File: file("credentials", who.File("default"))}}
		return addOnly{
			open: func() (escrow.Escrow, error) { return kinds.NewAWS(o) },
			shut: func() { s.Allow(who, "PutSecretValue", "DescribeSecret") },
			read: func() { s.Allow(who, awssecrets.Actions...) },
			call: func() int { return sum(s.Calls()) },
		}
	},
}

// TestAddOnlyDays is a week of a watcher that may add copies and read none (readable = false),
// in virtual time, and starts anew each morning. It tells of each key once, that it was stored;
// asks the store when it has something to add, and else not; and adds each key once.
func TestAddOnlyDays(t *testing.T) {
	for name, start := range addOnlyStores {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			store := start(t, func(name string, data []byte) string {
				must(t, os.WriteFile(path(name), data, 0o600))
				return path(name)
			})
			open := func() escrow.Escrow {
				place, err := store.open()
				must(t, err)
				return place
			}
			first := open()
			must(t, first.Init(t.Context()))
			must(t, first.Close())
			store.shut()
			must(t, os.Mkdir(path("etc"), 0o700))
			keys := []key.Key{key.Generate(), key.Generate()}
			var mornings []*outside
			for range 7 {
				mornings = append(mornings, newOutside(t, open()))
			}

			synctest.Test(t, func(t *testing.T) {
				book := ledger.Open(path("state"), ledger.Options{Host: "test"})
				clock := booted()
				var told []visitResult
				for day, place := range mornings {
					if day == 0 || day == 3 { // a new key
						k := keys[day/3]
						os.Remove(path("etc/secrets.key"))
						must(t, os.WriteFile(path("etc/secrets.key"), k.UnsafeBytes(), 0o400))
						must(t, book.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens)}))
					}
					h := hostOf(dir, agent.Escrow{Reader: escrow.NewUnread(place), Writer: place, AddOnly: true})
					s := newSaver(h, "store", clock)
					ctx, cancel := context.WithCancel(t.Context())
					out := make(chan visitResult)
					heard := make(chan struct{})
					go s.run(ctx, out)
					go func() {
						defer close(heard)
						for v := range out {
							told = append(told, v)
						}
					}()
					before := store.call()
					for range 24 * 4 { // the rescan, of which four in an hour tell what sixty would
						s.wake()
						time.Sleep(time.Hour / 4)
					}
					cancel()
					<-s.ended
					close(out)
					<-heard
					if calls := store.call() - before; day != 0 && day != 3 && calls > 0 {
						t.Errorf("day %d: %d calls, with nothing to add", day+1, calls)
					}
				}
				results := 0
				for _, v := range told {
					if v.err != nil {
						t.Errorf("it tells of trouble: %v", v.err)
					}
					for _, r := range v.results {
						if results++; !r.Unverified || r.Shelf != escrow.Current || r.Err != nil {
							t.Errorf("%+v", r)
						}
					}
				}
				if results != len(keys) {
					t.Errorf("it tells %d times of %d keys", results, len(keys))
				}
			})

			store.read()
			last := open()
			defer last.Close()
			copies, err := last.List(t.Context())
			must(t, err)
			var there []key.Fingerprint
			for _, c := range copies {
				there = append(there, c.Fingerprint)
			}
			if want := []key.Fingerprint{keys[1].Fingerprint(), keys[0].Fingerprint()}; !slices.Equal(there, want) && name != "gcp" || len(copies) != len(want) {
				t.Errorf("there are %q, not %q", there, want)
			}
		})
	}
}
