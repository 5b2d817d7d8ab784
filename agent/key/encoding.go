package key

// Encoding says how the bytes that held a key were written.
type Encoding string

// The encodings in which people and tools leave keys. Only Raw is what the daemon
// reads and what the runbook's `latest` must return.
const (
	Raw     Encoding = "raw"
	Newline Encoding = "raw with a newline" // 32 bytes and then LF or CR LF
	Hex     Encoding = "hex"
	Base64  Encoding = "base64" // RFC 4648, standard or URL alphabet, padded or not
	Words   Encoding = "words"  // BIP-39, 24 English words
)
