package config

import "strings"

// Nearest returns the candidate that somebody who wrote name most likely
// meant, or "": one that few slips of the keyboard away, or one that begins
// with name. Of equals it takes the first.
func Nearest(name string, candidates []string) string {
	const longest = 64 // beyond it nothing of ours can be meant
	name = strings.ToLower(name)
	if name == "" || len(name) > longest {
		return ""
	}
	// Three slips turn any short word into any other, hence the second bound.
	best, least := "", min(3, (len(name)+1)/2)+1
	for _, c := range candidates {
		if d := distance(name, c); d < least {
			best, least = c, d
		}
	}
	if least <= 1 {
		return best
	}
	prefixed := ""
	for _, c := range candidates {
		if strings.HasPrefix(c, name) && (prefixed == "" || len(c) < len(prefixed)) {
			prefixed = c
		}
	}
	if prefixed != "" {
		return prefixed
	}
	return best
}

// distance is Damerau's and Levenshtein's, with no part edited twice: how many
// bytes must be put in, left out, changed or swapped with the next to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
