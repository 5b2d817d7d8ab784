// Package worlds imagines what the authors of tests do not. A world is a host or two with
// their disks, a table of rows, escrows and a daemon that mints, all simulated, around the
// real code of agent and hooks; operators and accidents act in it at random, and any
// process may die before any of its effects. Everything happens on virtual time
// (testing/synctest), in one order, out of one seed: the same seed is the same world.
//
// After every step package laws judges: it knows the laws of design §2 and nothing of how
// agent keeps them. A world that breaks one is cut down to the shortest history that still
// does, and printed as a story and as a test to paste.
//
//	go test ./agent/worlds -run TestWorlds -worlds 1000 -seed 1
//	make worlds SEED=1 N=20000
package worlds
