// Package testdata holds rows as the containarium daemon writes them, produced by the
// daemon's own encryption code with two test keys.
package testdata

import _ "embed"

// Rows is the text of rows.json. Bytes are hex; null is SQL NULL, "" an empty value.
// Each row says which of the two keys opens it.
//
//go:embed rows.json
var Rows []byte
