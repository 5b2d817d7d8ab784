// Package notify owns the ways out to an operator that are not systemd's: programs in a
// directory, and a URL that wants to hear from us.
//
// Nothing here may be relied on, and nothing may hold up what is told of: every way has
// a deadline, and that it failed is for the caller to say and to go on (law 9).
package notify
