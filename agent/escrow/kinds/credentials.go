package kinds

import "github.com/footprintai/containarium-keyguard/agent/crew"

// maxToken bounds a file of credentials and an answer with a token, in bytes.
const maxToken = 1 << 20

// readSmall reads a file of ours that is known to be small.
func readSmall(path string) ([]byte, error) { return crew.Read(path, maxToken) }
