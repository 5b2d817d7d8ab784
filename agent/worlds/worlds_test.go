package worlds

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

var (
	count = flag.Int("worlds", 0, "how many worlds to play; 0: as KEYGUARD_WORLDS says, or 200, with -short 40")
	seed  = flag.Uint64("seed", 1, "the first one's seed; the others' follow it")
	found = flag.Bool("found", false, "say what breaks first, and do not look for the shortest history that does it")
	twice = flag.Int("twice", 20, "how many to play twice, to see that they are the same")
	tally = flag.Bool("tally", false, "name and count all that breaks instead of stopping at the first, each on standard error as it does, and there how far it is")
)

// play plays a plan in a bubble. Its keys come from its seed: in which order two of them are
// saved follows their names.
func play(t *testing.T, p Plan) (story []string, broken *Broken) { return playIn(t, &world{}, p) }

func playIn(t *testing.T, w *world, p Plan) (story []string, broken *Broken) {
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, p.Seed)
		story, broken = w.live(p, scratch)
	})
	return story, broken
}

func replay(t *testing.T, p Plan) *Broken {
	_, broken := play(t, p)
	return broken
}

// scratch is on a tmpfs.
var scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(1600)   // a world leaves little behind
	runtime.MemProfileRate = 0 // but for -test.memprofilerate
	runtime.GOMAXPROCS(1)      // in a world one thing happens after the other
	deepen()
	dir, err := os.MkdirTemp("/dev/shm", "keyguard-worlds-*")
	if err != nil {
		panic(err)
	}
	scratch = dir
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-ended
		os.RemoveAll(dir) //nolint:errcheck // as below
		os.Exit(1)
	}()
	code := m.Run()
	os.RemoveAll(dir) //nolint:errcheck // it is in memory
	os.Exit(code)
}

// deepen has goroutines begin with stacks that need not grow. A world has hundreds of them, and
// copying their stacks as they grew took a twentieth of all. The runtime begins them with as
// much as those that are there use in the mean (gcComputeStartingStackSize of runtime/stack.go):
// these use much, for ever, and take no time.
func deepen() {
	var there sync.WaitGroup
	for range 16 {
		there.Add(1)
		go func() {
			var frame [12 << 10]byte
			there.Done()
			<-make(chan int)
			runtime.KeepAlive(&frame)
		}()
	}
	there.Wait()
	runtime.GC()
}

// TestWorlds plays random histories. A law that breaks is shown by the shortest history
// that breaks it.
func TestWorlds(t *testing.T) {
	if *count == 0 {
		*count = 200
		if text, ok := os.LookupEnv("KEYGUARD_WORLDS"); ok {
			n, err := strconv.Atoi(text)
			if err != nil || n <= 0 {
				t.Fatalf("KEYGUARD_WORLDS=%q is no number of worlds", text)
			}
			*count = n
		}
		if testing.Short() {
			*count = 40
		}
	}
	began, spent, broke := time.Now(), processorTime(), map[string]int{}
	for n := range *count {
		if *tally && n > 0 && n%5000 == 0 {
			fmt.Fprintf(os.Stderr, "%d worlds from seed %d in %s of processor time, broken: %v\n", n, *seed, (processorTime() - spent).Round(time.Second), broke)
		}
		p := Imagine(*seed + uint64(n))
		broken := replay(t, p)
		if broken == nil {
			continue
		}
		if *tally {
			broke[broken.Law]++
			fmt.Fprintf(os.Stderr, "world %d: %s\n", p.Seed, broken.What) // t.Logf would keep it to the end, which may not come
			continue
		}
		if *found {
			t.Fatalf("world %d: %s", p.Seed, broken.What)
		}
		short := Shorten(p, func(p Plan) bool {
			b := replay(t, p)
			return b != nil && b.Law == broken.Law
		})
		if b := replay(t, short); b != nil {
			broken = b
		}
		t.Fatalf("world %d: %s\n\n%s\n\nto play it again:\n\n%#v", p.Seed, broken.What, broken.Story, short)
	}
	if len(broke) > 0 {
		t.Errorf("broken: %v", broke)
	}
	took := processorTime() - spent
	t.Logf("%d worlds in %s of processor time, %.0f a second of it; %s by the clock", *count,
		took.Round(time.Millisecond), float64(*count)/took.Seconds(), time.Since(began).Round(time.Millisecond))
}

// processorTime is what this process has used of all processors.
func processorTime() time.Duration {
	var u unix.Rusage
	must(unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestBrokenOnce plays the shortest histories that broke a law before the code was mended, or what holds
// it to the law.
func TestBrokenOnce(t *testing.T) {
	for name, p := range map[string]Plan{
		"of a split one store refuses, one falls silent, and one has another's part on top": {Seed: 88377, Steps: []Step{
			{Do: "a store refuses", Arg: 0xa1872a1a050d1eeb},
			{Do: "rotate", Arg: 0x5d4b76e7557f38db},
			{Do: "tenants write", Arg: 0x60b836be29fd9b14},
			{Do: "another host's parts on top", Arg: 0xf3de09bcc70b93fb},
			{Do: "a store is slow", Arg: 0x265be65108a7ddbd},
			{Do: "rm secrets.key", Arg: 0xbdace56749eb775b},
		}},
		"the keyfile is taken away before the daemon reads it, and rows come": {Seed: 935384, Steps: []Step{
			{Do: "its disk is lost, and all that is not away", Arg: 0xefa9ae415c63ce9, Dies: 38},
			{Do: "rm -r etc", Arg: 0x5a2e11419eb18f4a},
			{Do: "rows of another key are merged in", Arg: 0x2f36d8afd2dbab5a},
		}},
		"two keys stand in the keyfile's place one after the other, and neither can be kept": {Seed: 667475, Steps: []Step{
			{Do: "state is read-only", Arg: 0x4f3c8baab71036c5},
			{Do: "a store is full", Arg: 0xfcd68e09723d4eca},
			{Do: "Postgres goes", Arg: 0xed7beca7c6cfd82d},
			{Do: "a key is put there while nobody watches", Arg: 0xe3e9fc5a29eebce6},
			{Do: "two keys are on their way at once", Arg: 0x745bcea2044447b9},
		}},
		"another host's part is destroyed, and its store calls it this host's": {Seed: 716583, Steps: []Step{
			{Do: "another host's parts on top", Arg: 0xc945307df3cd8c5a},
			{Do: "the newest is destroyed", Arg: 0xa5171224898ded7e},
			{Do: "a copy is called another key", Arg: 0xbcc55214551fd875},
		}},
		"a key is accepted while no row speaks, and the table is another one": {Seed: 854861, Steps: []Step{
			{Do: "accept", Arg: 0xc9afbe3e7784f440},
			{Do: "drop the table", Arg: 0xae6e8e1a54dad834},
			{Do: "rows of another key are merged in", Arg: 0x95239d79cfbe31fd},
			{Do: "status", Arg: 0x925d1d2062efda4c},
		}},
		"a copy that was listed late comes into sight between the listing and the save": {Seed: 764009, Steps: []Step{
			{Do: "restart the daemon", Arg: 0x989a25cfa4eef0f0},
			{Do: "the need changes, and somebody backs up", Arg: 0xa0db639d546cf5b3, Dies: 9},
			{Do: "a store is slow", Arg: 0x71810487cd369f1},
			{Do: "an old key on top", Arg: 0x6974155ec15cf3f9},
			{Do: "restore", Arg: 0xeed38726367d9c04},
			{Do: "restore", Arg: 0x103bb907bee3a7db},
			{Do: "the need changes, and somebody backs up", Arg: 0x4e8cb7cc7ed75be8},
		}},
		"all keys are lost, the same one comes back, and its store is made anew": {Seed: 516368, Steps: []Step{
			{Do: "all keys are lost, and the ledger is not", Arg: 0x42e5856fc3b12d53},
			{Do: "an old key in the keyfile's place", Arg: 0x5ee7bd032d9608f9},
			{Do: "the ledger goes, and none can be made", Arg: 0xcab32e6e928ab982, Dies: 5},
		}},
		"the rows refute an accepted key, and a part of them comes under it again": {Seed: 454822, Steps: []Step{
			{Do: "tenants write", Arg: 0xed29c91019f01dc},
			{Do: "accept", Arg: 0x2216ef534b2f7060},
			{Do: "rows of another key are merged in", Arg: 0xef2895bdb0e5dd86},
			{Do: "tenants write", Arg: 0x73efc48ee59549a5},
			{Do: "power cut", Arg: 0x34386508ca031a7d},
		}},
		"a key that opens few rows seems to be the newest of a split, is put in the keyfile's place, and the rows cannot be asked": {Seed: 257425, Steps: []Step{
			{Do: "an older copy is the newest again", Arg: 0xad67c52380989056},
			{Do: "a foreign key on top", Arg: 0xeff81889711b1f38},
			{Do: "accept", Arg: 0x8cdfe9213eeb9767},
			{Do: "rotate, and be killed", Arg: 0x68db2d28be5e6615},
			{Do: "an old key in the keyfile's place", Arg: 0x8a3b6c9ee4fcb972},
		}},
		"a key is accepted while the rows cannot be asked, which it does not open": {Seed: 169881, Steps: []Step{
			{Do: "the stores are back", Arg: 0x74212cb46df24638},
			{Do: "a foreign key in the keyfile's place", Arg: 0xb7762affed107aa1},
			{Do: "a key is put there while nobody watches", Arg: 0x7a33cd948bfe0498},
			{Do: "rows of another key are merged in", Arg: 0x8998c88dc926e79a},
			{Do: "Postgres goes", Arg: 0xcabd6146e13c824},
			{Do: "accept", Arg: 0xcb4458925e0801c3},
			{Do: "status", Arg: 0xd41eec979cbf1d83},
		}},
		"two keys come at once to stores that were empty, each after the other's listing": {Seed: 238, Steps: []Step{
			{Do: "two keys are on their way at once", Arg: 0x4dc79e4ddfee49e5},
		}},
		"a key is on its way, and another process brings a second one, and the first to quarantine": {Seed: 2547, Steps: []Step{
			{Do: "a foreign key on top", Arg: 0xf5cf44d282e4666c},
			{Do: "two keys are on their way at once", Arg: 0xe5a0d2c5f46d1248},
		}},
		"the newest copy is destroyed, and the hourly look is put off by a save of another key": {Seed: 519727, Steps: []Step{
			{Do: "state is read-only", Arg: 0xb1dac14c79e364bc},
			{Do: "a foreign key in the keyfile's place", Arg: 0x7809aa054b0897b6},
			{Do: "restart the daemon", Arg: 0x8fd8c75ad049140c},
			{Do: "the newest is destroyed", Arg: 0x2106cd772ee2f183},
		}},
		"a rotation is killed before it starts the daemon, and status is green": {Seed: 15, Steps: []Step{
			{Do: "rotate, and be killed", Arg: 0xc5},
			{Do: "status", Arg: 0x3},
		}},
		"the ledger is lost, and then the newest copy": {Seed: 23026, Steps: []Step{
			{Do: "rotate", Arg: 0x7aa97528278b1daa},
			{Do: "rm the state directory", Arg: 0xfa4a66add70827f6},
			{Do: "the newest is destroyed", Arg: 0x6bf65df161d3331c},
		}},
		"a repair brings all rows under a key that its daemon minted and nobody synced": {Seed: 28965, Steps: []Step{
			{Do: "a key is put there while nobody watches", Arg: 0x971a7009af779a77},
			{Do: "backup", Arg: 0x1770331ede7c0a88},
			{Do: "rows of another key are merged in", Arg: 0xc07abbecfad9bb50},
			{Do: "rm secrets.key", Arg: 0xe61bc8a7d953ce9c},
			{Do: "rotate", Arg: 0x6e7dc5bbecb0826d},
			{Do: "take a snapshot", Arg: 0x4a190a54c2641252},
			{Do: "rows of another key are merged in", Arg: 0xde0bce83471df7bf},
			{Do: "repair", Arg: 0x3f4a94944469bc31},
		}},
		"a backup that the store adds without showing it dies before the ledger names the copy": {Seed: 32290, Steps: []Step{
			{Do: "backup", Arg: 0x290f37f1fc6bee6, Dies: 19},
		}},
		"a store of a split does not answer, and has the key whole": {Seed: 34959, Steps: []Step{
			{Do: "a foreign key on top", Arg: 0x17b7e709a473778e},
			{Do: "rows of another key are merged in", Arg: 0x90215382044229b7},
			{Do: "a foreign key on top", Arg: 0xc3e8f9aaf75afef5},
		}},
		"a rotation is killed in its commit, rows of another key come, and a third is put in the keyfile's place": {Seed: 1689, Steps: []Step{
			{Do: "rotate, and be killed", Arg: 0x366ba64b59728234},
			{Do: "rows of another key are merged in", Arg: 0x5836bb1b42e49f02},
			{Do: "Postgres comes", Arg: 0x749f17648e20fbe9},
			{Do: "accept", Arg: 0xd54723e47973964e},
		}},
		"the ledger is taken away, no other can be made, and a power cut brings it back": {Seed: 52411, Steps: []Step{
			{Do: "a foreign key in the keyfile's place", Arg: 0x99447c8946408ce},
			{Do: "no inode is left", Arg: 0x4d4c58c908b9abe7},
			{Do: "rotate, and be killed", Arg: 0x6557246ae5ecfdb},
			{Do: "the watcher looks", Arg: 0xd98e3cfb4f4b3fa5, Dies: 26},
		}},
		"there is no way to one store of a split, and the others are asked by every start": {Seed: 1246, Steps: []Step{
			{Do: "its disk is lost, and some members", Arg: 0x59d03fd8fb19b18},
			{Do: "another host of that name", Arg: 0xc119da3a446375fe},
			{Do: "start, and start again", Arg: 0x665f88e1abfb8fa3},
		}},
		"a store of a split calls a part another key's, and half of the rows hang on it": {Seed: 2582, Steps: []Step{
			{Do: "its disk is lost, and all that is not away", Arg: 0x77a5772fe67ec2e7},
			{Do: "a copy is called another key", Arg: 0x21b912921c7385c0},
		}},
		"a copy that nobody may read is backed up again, and somebody writes a duplicate": {Seed: 12204, Steps: []Step{
			{Do: "backup", Arg: 0xc99ff05c23496661},
			{Do: "the stores are back", Arg: 0x1512343cf81013fe},
			{Do: "a foreign key in the keyfile's place", Arg: 0xbe1783572b17b628},
			{Do: "an old key in the keyfile's place", Arg: 0xfacda3b5cf452488},
			{Do: "an older copy is the newest again", Arg: 0xe171ec69dbb9ebed},
			{Do: "rotate", Arg: 0x5dea8ad6e33ec8ea},
		}},
		"an older copy is put above the last one, which is a note by then": {Seed: 20144, Steps: []Step{
			{Do: "repair", Arg: 0x1ad03373176f14bf},
			{Do: "a copy is spoiled under its name, or mended", Arg: 0x8032a6dc8674c45e},
			{Do: "a key is put there while nobody watches", Arg: 0x28968655ef15e7d7, Dies: 6},
			{Do: "an older copy is the newest again", Arg: 0x327cc6534a0f041b},
		}},
		"another key's part is called one of the present key, cut for another need": {Seed: 122481, Steps: []Step{
			{Do: "another host's parts on top", Arg: 0x22f47cba0bfaa26d},
			{Do: "a copy is called another key", Arg: 0xc090ac1a405a0616},
		}},
		"a store of a split lists what it does not give, and a repair takes rows from that key": {Seed: 321075, Steps: []Step{
			{Do: "a copy is spoiled under its name, or mended", Arg: 0x7eaf74885b4df03c},
			{Do: "repair", Arg: 0x90d1b8491db26571},
		}},
		"a key that opens the lesser part of the rows seems to be the newest of a split, and lacks a part": {Seed: 422212, Steps: []Step{
			{Do: "tenants delete", Arg: 0xc608dfca0585e9f9},
			{Do: "the watcher looks", Arg: 0x17a8f0b12b48a2f5},
			{Do: "a store is away", Arg: 0xb789c93a38acb071},
			{Do: "the ledger goes, and none can be made", Arg: 0x956d16fde2dfe4c8},
			{Do: "all are enabled", Arg: 0x7be835a5df3646bc},
			{Do: "the ledger goes, and none can be made", Arg: 0xe1e4e76c08f52599},
			{Do: "pg_dump", Arg: 0x3fc78f8157dd6d9b},
			{Do: "wait", Arg: 0x2daadb2f0909c33c},
			{Do: "a store is away", Arg: 0xf8b9383a2ab7cfc},
			{Do: "the disk is well", Arg: 0xebdcc78d82dfdd26},
			{Do: "rotate, and be killed", Arg: 0xf94eeb2d4173d757},
		}},
		"a store of a split that does not answer has another key, whole, and no row speaks": {Seed: 30928, Steps: []Step{
			{Do: "a foreign key on top", Arg: 0xbae105e2d06bf6db},
			{Do: "an old key in the keyfile's place", Arg: 0x8dbfbe33791fa025},
			{Do: "a foreign key in the keyfile's place", Arg: 0x6c4fa9739f3fbfd8},
		}},
		"a person's word ends in a start that dies": {Seed: 625180, Steps: []Step{
			{Do: "another host's parts on top", Arg: 0x1e3ae114f05a7189},
			{Do: "tenants write", Arg: 0x296cc70da976edae},
			{Do: "accept", Arg: 0x435084fba1463247},
			{Do: "a key is put there while nobody watches", Arg: 0x3dd31c1ec107023c, Dies: 15},
			{Do: "an old key in the keyfile's place", Arg: 0x6ec6714fb4a9bdc9},
		}},
		"a copy on top is called another key": {Seed: 113972, Steps: []Step{
			{Do: "accept", Arg: 0x86a4882b30c6df91},
			{Do: "an older copy is the newest again", Arg: 0xaf9c8d83fdea2028},
			{Do: "a copy is called another key", Arg: 0xc744aa9165ef5df4},
		}},
		"a copy in parts is accepted while a store of it does not answer": {Seed: 417833, Steps: []Step{
			{Do: "an older copy is the newest again", Arg: 0xfd21effc1e8353fa},
			{Do: "rotate, and be killed", Arg: 0x1ca688230618c561},
			{Do: "an older copy is the newest again", Arg: 0xca4176f1010f8c14},
			{Do: "accept", Arg: 0x930b1627bb988df8},
		}},
		"a daemon mints where the only copy is listed late": {Seed: 854285, Steps: []Step{
			{Do: "the ledger goes, and none can be made", Arg: 0xdbb42aeccb9c22ca},
			{Do: "rm secrets.key", Arg: 0x5b444b3f79755f90},
			{Do: "pg_dump", Arg: 0xf976781d3344daad},
		}},
		"a whole key on a store of a split is accepted, and then called another key": {Seed: 4242, Steps: []Step{
			{Do: "a foreign key on top", Arg: 0xf05cb27c5769c4ce},
			{Do: "accept", Arg: 0x9e323982d528de3},
			{Do: "a copy is called another key", Arg: 0xed3c400bcf4179e4},
			{Do: "accept", Arg: 0x9bed738d2ebff39d},
		}},
		"a dump of before is loaded after the commit of a rotation that was killed, and no row speaks": {Seed: 3, Steps: []Step{
			{Do: "pg_dump"},
			{Do: "rotate, and be killed", Arg: 0xed32b2},
			{Do: "load a dump", Arg: 0x1},
			{Do: "restart the daemon", Arg: 0x1},
		}},
		"a part is disabled, and the backup that puts another above it dies before the ledger names it": {Seed: 59325, Steps: []Step{
			{Do: "the newest is disabled", Arg: 0x8f51ae1431470ac3},
			{Do: "backup", Arg: 0xdb2633b4e1d31484, Dies: 18},
		}},
		"a rotation is killed, the ledger goes, and the parts that lack of a key that opens few rows are saved while Postgres is silent": {Seed: 78325, Steps: []Step{
			{Do: "rows of another key are merged in", Arg: 0x36d8eecd28d3acbe},
			{Do: "another host of that name", Arg: 0x7e14bac0427467e5},
			{Do: "rows of another key are merged in", Arg: 0x60ee5201770783e7},
			{Do: "wait", Arg: 0x572f340af108579},
			{Do: "rotate, and be killed", Arg: 0xf66a8f4a93ea9dee},
		}},
		"a rotation stops in its commit, rows of other keys come, and a copy that nobody can read may be another": {Seed: 87785, Steps: []Step{
			{Do: "rotate, and be killed", Arg: 0x21e78258f5bbd0},
			{Do: "repair", Arg: 0xaf200dca33fe3c9c},
			{Do: "a copy is spoiled under its name, or mended", Arg: 0x254fa78b3e8417b},
		}},
		"a part is called another key, and one of its own that is cut for another need stands above it": {Seed: 826506, Steps: []Step{
			{Do: "rotate, and be killed", Arg: 0xb92b4fcb0c69d91b, Dies: 6},
			{Do: "rm -r etc", Arg: 0x54f40a12cd179c88},
			{Do: "a copy is called another key", Arg: 0x53497e66fc50d286},
			{Do: "an odd part on one store", Arg: 0xf8f36a1aebfe0130},
			{Do: "power cut", Arg: 0x5e587c88771bc4d6},
			{Do: "rotate, and be killed", Arg: 0x5dbe671d585b64b5},
		}},
		"the members have other numbers after the ledger was lost, and one lists late from then on": {Seed: 302402, Steps: []Step{
			{Do: "a store is away", Arg: 0x7f863193f2aad8a1},
			{Do: "the ledger goes, and none can be made", Arg: 0x3805bf773f57b0f2},
			{Do: "the members change their parts", Arg: 0xde181e6237d42299},
			{Do: "a store lists late", Arg: 0x33b4a07a832f4077},
			{Do: "a key is put there while nobody watches", Arg: 0x5f7b94793e43f4d2},
		}},
		"the need has changed, and of the members that are left one lists late from then on": {Seed: 85045, Steps: []Step{
			{Do: "the need changes", Arg: 0xc637a6b86d176bee},
			{Do: "a copy is spoiled under its name, or mended", Arg: 0x828e6195a2ee448b},
			{Do: "a store is made anew", Arg: 0xb8b6e6ac83b6b399},
			{Do: "accept", Arg: 0xb0155c875588254d},
		}},
		"the key that was proven here is saved on an empty table, and a store with a stranger's does not answer": {Seed: 328675, Steps: []Step{
			{Do: "drill", Arg: 0x7096693df6f87b1a},
			{Do: "truncate", Arg: 0x77f60a1511f6df5c},
			{Do: "wait", Arg: 0x4b9b7f8036c7aae9},
			{Do: "a copy is spoiled under its name, or mended", Arg: 0x4f2e8e42d6c25802},
			{Do: "power cut", Arg: 0x4acc3f7d960f6648},
			{Do: "another host's parts on top", Arg: 0xf64ac542c918af6},
			{Do: "a store is away", Arg: 0x7a2b12763b8648b4},
			{Do: "backup", Arg: 0x97d0f5b04c214b27},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if b := replay(t, p); b != nil {
				t.Errorf("%s\n%s", b.What, b.Story)
			}
		})
	}
}

// TestSameSeedSameWorld: a history that broke a law can be played again, whatever else the
// machine does: alone on one processor, and on two with others who want them.
func TestSameSeedSameWorld(t *testing.T) {
	if testing.Short() { // the race detector has goroutines of one moment take turns by chance
		return
	}
	var once []string
	for n := range uint64(*twice) {
		once = append(once, storyIn(t, &world{}, *seed+n))
	}
	busy(t)
	for n, once := range once {
		if again := storyIn(t, &world{}, *seed+uint64(n)); once != again {
			t.Errorf("seed %d:\n%s\n\nand again:\n%s", *seed+uint64(n), once, again)
		}
	}
}

// busy has a second processor, and goroutines that take what they can get of both, until the
// test ends.
func busy(t *testing.T) {
	runtime.GOMAXPROCS(2)
	ended, all := make(chan struct{}), sync.WaitGroup{}
	for range 3 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				default:
					_ = make([]byte, 1<<10)
				}
			}
		})
	}
	t.Cleanup(func() {
		close(ended)
		all.Wait()
		runtime.GOMAXPROCS(1)
	})
}

// TestRealFiles: on a disk in memory a history goes on as it does on one whose files the kernel
// has, to the letter of its errors, and both end with the same files.
func TestRealFiles(t *testing.T) {
	if testing.Short() { // as above
		return
	}
	for seed := uint64(1000); seed < 1020; seed++ {
		if memory, kernel := storyIn(t, &world{}, seed), storyIn(t, &world{real: true}, seed); memory != kernel {
			t.Errorf("seed %d, in memory:\n%s\n\nand with real files:\n%s", seed, memory, kernel)
		}
	}
}

// storyIn plays what a seed plans in a world and returns its story.
func storyIn(t *testing.T, w *world, seed uint64) string {
	story, _ := playIn(t, w, Imagine(seed))
	return strings.Join(story, "\n")
}
