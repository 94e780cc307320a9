// Package nearest finds the known word that a misspelled one was meant to be.
package nearest

import (
	"iter"
	"strings"
	"unicode/utf8"
)

// maxRunes bounds the work for one pair of words; a longer word is nobody's misspelling.
const maxRunes = 64

// Of returns the known word nearest to word, and whether there is one near enough to suggest. Upper and lower case, '_'
// and '-' do not count ("peers_file" is "peersFile"). Otherwise one letter in three, rounded up, may be wrong, missing, too many,
// or swapped with its neighbour. Of words equally near it returns the first in the alphabet, whatever the order of
// known. A word of 64 runes or more has no neighbour.
func Of(word string, known iter.Seq[string]) (string, bool) {
	w := fold(word)
	if len(w) == 0 || len(w) >= maxRunes {
		return "", false
	}
	best, near := "", (len(w)+2)/3+1
	for k := range known {
		r := fold(k)
		if len(r) == 0 || len(r) >= maxRunes {
			continue
		}
		d := distance(w, r)
		if d >= len(w) || d >= len(r) {
			continue // nothing of it is left
		}
		if d < near || d == near && best != "" && k < best {
			best, near = k, d
		}
	}
	return best, best != ""
}

func fold(s string) []rune {
	if utf8.RuneCountInString(s) >= 2*maxRunes {
		return make([]rune, maxRunes)
	}
	s = strings.ToLower(s)
	return []rune(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours that make b of a: the
// restricted form of the Damerau-Levenshtein distance.
func distance(a, b []rune) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			change := prev[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, prev[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
