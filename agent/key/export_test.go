package key

// UnsafeWords returns the key as 24 words, without the check words of a sheet. It is nil for the
// zero Key.
func (k Key) UnsafeWords() []string {
	if k.b == nil {
		return nil
	}
	words := make([]string, wordCount)
	for i, n := range k.numbers() {
		words[i] = wordList()[n]
	}
	return words
}
