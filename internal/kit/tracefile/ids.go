package tracefile

import (
	"fmt"
	"strconv"
)

// ids is a JSON list of integers of 64 bits, signed or not: ids may be numbers
// in a row, or hashes. Those that are greater than any int64 become negative,
// which keeps them apart.
type ids []int64

// UnmarshalJSON reads the list. A trace is little else, so this is most of the
// time that reading it takes.
func (l *ids) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if b[0] != '[' {
		return fmt.Errorf("ids of blocks: want a list of integers, not %s", shown(b))
	}
	n := 0
	for _, c := range b {
		if c == ',' {
			n++
		}
	}
	*l = make(ids, 0, n+1)
	for i := 1; i < len(b); {
		switch c := b[i]; c {
		case ' ', '\t', '\n', '\r', ',', ']':
			i++
			continue
		}
		end := i
		for end < len(b) && !isEnd(b[end]) {
			end++
		}
		id, err := integer(b[i:end])
		if err != nil {
			return fmt.Errorf("id %s of a block is not an integer of 64 bits", shown(b[i:end]))
		}
		*l, i = append(*l, id), end
	}
	return nil
}

func isEnd(c byte) bool {
	return c == ',' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r'
}

// integer reads a number.
func integer(b []byte) (int64, error) {
	if len(b) > 18 || b[0] == '-' {
		if b[0] == '-' {
			return strconv.ParseInt(string(b), 10, 64)
		}
		u, err := strconv.ParseUint(string(b), 10, 64)
		return int64(u), err
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, strconv.ErrSyntax
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// shown returns a value for an error message, cut if it is long.
func shown(b []byte) string {
	if len(b) > 40 {
		b = append(b[:40:40], "…"...)
	}
	return string(b)
}
