package trace

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const (
		id     = "0af7651916cd43dd8448eb211c80319c"
		span   = "b7ad6b7169203331"
		good   = "00-" + id + "-" + span + "-01"
		noID   = "00000000000000000000000000000000"
		noSpan = "0000000000000000"
	)
	tests := []struct {
		name, parent, state   string
		wantParent, wantState string
	}{
		{"recorded", good, "", good, ""},
		{"not recorded", "00-" + id + "-" + span + "-00", "", "00-" + id + "-" + span + "-00", ""},
		{"a random id", "00-" + id + "-" + span + "-03", "", "00-" + id + "-" + span + "-03", ""},
		{"flags that mean nothing yet", "00-" + id + "-" + span + "-fd", "", good, ""},
		{"a later version", "cc-" + id + "-" + span + "-01", "", good, ""},
		{"a later version that says more", "cc-" + id + "-" + span + "-01-what-the-future-brings", "", good, ""},
		{"a later version that goes on without a dash", "cc-" + id + "-" + span + "-01.what", "", "", ""},
		{"a later version that is short", "cc-" + id + "-" + span + "-0", "", "", ""},
		{"version ff", "ff-" + id + "-" + span + "-01", "", "", ""},
		{"more than version 00 has", good + "-x", "", "", ""},
		{"a dash at the end", good + "-", "", "", ""},
		{"nothing", "", "", "", ""},
		{"too short", good[:54], "", "", ""},
		{"capitals", strings.ToUpper(good), "", "", ""},
		{"no hex digits in the version", "0g-" + id + "-" + span + "-01", "", "", ""},
		{"no hex digits in the trace", "00-" + id[:31] + "g-" + span + "-01", "", "", ""},
		{"no hex digits in the span", "00-" + id + "-" + span[:15] + ".-01", "", "", ""},
		{"no hex digits in the flags", "00-" + id + "-" + span + "-0 ", "", "", ""},
		{"trace 0", "00-" + noID + "-" + span + "-01", "", "", ""},
		{"span 0", "00-" + id + "-" + noSpan + "-01", "", "", ""},
		{"parts of other lengths", "00-" + id + span[:8] + "-" + span[:8] + "-01", "", "", ""},
		{"other dashes", "00_" + id + "_" + span + "_01", "", "", ""},
		{"spaces around", " " + good[:54], "", "", ""},

		{"state", good, "a=1,b@c=2", good, "a=1,b@c=2"},
		{"spaces between, nothing at the ends", good, "a=1 ,\tb=2,", good, "a=1,b=2"},
		{"state alone", "", "a=1", "", ""},
		{"state of a malformed parent", "00-1-2-3", "a=1", "", ""},
		{"malformed state", good, "a=1,B", good, ""},
		{"a vendor twice", good, "a=1,a=2", good, ""},
		{"a line break", good, "a=1\r\nx-evil: 1", good, ""},
		{"32 vendors", good, vendors(32), good, vendors(32)},
		{"33 vendors", good, vendors(33), good, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Parse(test.parent, test.state)
			if got := c.Traceparent(); got != test.wantParent {
				t.Errorf("traceparent %q, want %q", got, test.wantParent)
			}
			if got := c.Tracestate(); got != test.wantState {
				t.Errorf("tracestate %q, want %q", got, test.wantState)
			}
		})
	}
}

func vendors(n int) string {
	var vs []string
	for i := range n {
		vs = append(vs, "v"+strings.Repeat("x", i)+"=1")
	}
	return strings.Join(vs, ",")
}

// FuzzParse holds that what Parse takes is written as version 00, is read again
// as the same, and that nothing is written that a header cannot hold.
func FuzzParse(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=1,b=2")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-more", " a = 1 ,,")
	f.Add("00-00000000000000000000000000000000-b7ad6b7169203331-01", "")
	f.Fuzz(func(t *testing.T, parent, state string) {
		c := Parse(parent, state)
		p, s := c.Traceparent(), c.Tracestate()
		if p == "" {
			if s != "" {
				t.Fatalf("state %q of no trace", s)
			}
			return
		}
		if len(p) != length || !strings.HasPrefix(p, "00-") || p[traceAt:flagsAt] != parent[traceAt:flagsAt] {
			t.Fatalf("%q became %q", parent, p)
		}
		if again := Parse(p, s); again.Traceparent() != p || again.Tracestate() != s {
			t.Fatalf("%q, %q are read as %q, %q", p, s, again.Traceparent(), again.Tracestate())
		}
		for _, r := range s {
			if r < ' ' || r > '~' {
				t.Fatalf("state %q has a byte that is not for headers", s)
			}
		}
	})
}
