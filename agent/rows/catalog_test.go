package rows_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestCut: every block of a table is in one piece and one only, and the last piece has what is
// written at its end meanwhile.
func TestCut(t *testing.T) {
	const mega, v13, v14 = 1 << 20, 139999, 140000
	all := []string{"true"}
	for name, tt := range map[string]struct {
		heap, all, version int64
		pieces, ranges     []string
		few                bool
	}{
		"empty":                             {0, 0, v14, all, all, true},
		"one block":                         {8192, 8192, v14, all, all, true},
		"too small for a sample":            {10_000_000 - 1, 10_000_000, v14, all, all, true},
		"large enough for one":              {10_000_000, 10_000_000, v14, all, all, false},
		"small rows, as much as one reads":  {512 * mega, 512 * mega, v14, all, all, false},
		"and a block more":                  {512*mega + 8192, 512*mega + 8192, v14, []string{"65 pieces", ">= 0 and < 1024", ">= 65536"}, []string{">= 0 and < 65536", ">= 65536"}, false},
		"and as much again":                 {1024 * mega, 1024 * mega, v14, []string{"128 pieces", ">= 0 and < 1024", ">= 130048"}, []string{">= 0 and < 65536", ">= 65536"}, false},
		"and that and a block":              {1024*mega + 8192, 1024*mega + 8192, v14, []string{"129 pieces", ">= 0 and < 1024", ">= 131072"}, []string{"3 pieces", ">= 0 and < 65536", ">= 131072"}, false},
		"half of it outside, as much":       {8 * mega, 16 * mega, v14, []string{">= 0 and < 512", ">= 512"}, all, true},
		"just less than half of it outside": {8*mega + 8192, 16 * mega, v14, all, all, true},
		"two blocks, and 24 MiB outside":    {2 * 8192, 24 * mega, v14, []string{">= 0 and < 1", ">= 1"}, all, true},
		"before ranges of ctid were read":   {1024 * mega, 4096 * mega, v13, all, all, false},
	} {
		t.Run(name, func(t *testing.T) {
			pieces, ranges, few := rows.Cut(tt.heap, tt.all, 8192, tt.version)
			pieces, ranges = ends(pieces), ends(ranges)
			if !slices.Equal(pieces, tt.pieces) || !slices.Equal(ranges, tt.ranges) || few != tt.few {
				t.Errorf("pieces %q, ranges %q, too small for a sample: %t", pieces, ranges, few)
			}
		})
	}
}

// ends are the first and the last of a list of more than two, and how many there are.
func ends(list []string) []string {
	if len(list) <= 2 {
		return list
	}
	return []string{fmt.Sprint(len(list), " pieces"), list[0], list[len(list)-1]}
}

// TestEncoded: a name comes as it was sealed, or nobody says what opens.
func TestEncoded(t *testing.T) {
	for _, tt := range []struct {
		client, database string
		same             bool
	}{
		{"UTF8", "UTF8", true}, {"UTF8", "LATIN1", true}, {"LATIN1", "LATIN1", true}, {"SQL_ASCII", "LATIN1", true},
		{"LATIN1", "SQL_ASCII", true}, {"LATIN1", "UTF8", false}, {"LATIN1", "LATIN9", false},
	} {
		if err := rows.Encoded(tt.client, tt.database); (err == nil) != tt.same || err != nil && !errors.Is(err, rows.ErrEncoding) {
			t.Errorf("client %s, database %s: %v", tt.client, tt.database, err)
		}
	}
}

// TestIsSnapshot: what a server calls a snapshot stands in a statement, and so must be no more than
// such a name.
func TestIsSnapshot(t *testing.T) {
	for name, is := range map[string]bool{
		"": false, "00000003-0000001B-1": true, "abcdef-ABCDEF-09": true, "00000003'; drop table secrets; --": false,
		strings.Repeat("0", 63): true, strings.Repeat("0", 64): false,
	} {
		if rows.IsSnapshot(name) != is {
			t.Errorf("%q: %t", name, !is)
		}
	}
}
