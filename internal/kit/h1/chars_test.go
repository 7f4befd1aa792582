package h1

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
)

// TestEachByte holds the tables to the grammar, byte by byte.
func TestEachByte(t *testing.T) {
	const letters, digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	for i := range 256 {
		c := byte(i)
		in := func(set string) bool { return strings.IndexByte(set, c) >= 0 }
		visible := c > ' ' && c < 0x7f
		for _, tt := range []struct {
			what      string
			got, want bool
		}{
			{"a token", isToken([]byte{c}), in(letters + digits + "!#$%&'*+-.^_`|~")},
			{"a host", isHost([]byte{c}), in(letters + digits + "-._~")},
			{"a target", all([]byte{c}, inTarget), visible && c != '#'},
			{"a value", isValue([]byte{c}), visible || c == ' ' || c == '\t' || c >= 0x80},
		} {
			if tt.got != tt.want {
				t.Errorf("%q is %s: %t, want %t", c, tt.what, tt.got, tt.want)
			}
		}
		value := uint64(notHex)
		if n, err := strconv.ParseUint(string(rune(c)), 16, 8); err == nil && c < 0x80 {
			value = n
		}
		if got := hexDigits[c]; uint64(got) != value {
			t.Errorf("%q as a hexadecimal digit is %d, want %d", c, got, value)
		}
		for _, l := range []byte(strings.ToLower(letters) + digits + "-") {
			want := c == l || c < 0x80 && bytes.EqualFold([]byte{c}, []byte{l})
			if got := EqualFold([]byte{c}, string(rune(l))); got != want {
				t.Errorf("EqualFold(%q, %q) = %t, want %t", c, l, got, want)
			}
		}
		for _, size := range []int{7, 8, 9, 15, 16, 17, 31} {
			for at := range size {
				v := bytes.Repeat([]byte("\xc3"), size)
				v[at] = c
				if got, want := isValue(v), isValue([]byte{c}); got != want {
					t.Fatalf("%q at %d of %d bytes is a value: %t, want %t", c, at, size, got, want)
				}
			}
		}
	}
}
