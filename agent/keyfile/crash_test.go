package keyfile

func crashing(string) error { return nil }
