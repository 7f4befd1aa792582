package infer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestBodiesOfReaders holds that a body is read, or passes, as it is, up to
// where it is looked at and up to its limit.
func TestBodiesOfReaders(t *testing.T) {
	const most, limit = 100 << 10, 300 << 10
	for _, n := range []int{0, 1, most - 1, most, most + 1, 2*most + 7, limit, limit + 1} {
		want := strings.Repeat("0123456789", n/10+1)[:n]
		for _, announced := range []bool{true, false} {
			for _, pass := range []bool{true, false} {
				length := int64(-1)
				if announced {
					length = int64(n)
				}
				r := new(Request)
				r.SetBody(NewBody(iotest.HalfReader(strings.NewReader(want)), length))
				longer, err := r.ReadShortBody(most, limit)
				var passed bytes.Buffer
				if longer && pass && err == nil {
					r.LeaveBody(limit)
					if r.BodyLength() != length {
						t.Errorf("%d bytes: the length is %d", n, r.BodyLength())
					}
					err = r.PassBody(&passed)
					if !r.Gone() {
						t.Errorf("%d bytes passed, and are still to be had", n)
					}
				} else if longer && err == nil {
					err = r.ReadBody(limit)
				}
				got := string(r.Body)
				if r.Left() {
					got = passed.String()
				}
				switch {
				case n > limit:
					if !errors.Is(err, TooLarge) {
						t.Errorf("%d bytes, announced: %v, to pass: %v: %v", n, announced, pass, err)
					}
				case err != nil || got != want || r.Size != int64(n):
					t.Errorf("%d bytes, announced: %v, to pass: %v: got %d, %d counted, %v", n, announced, pass, len(got), r.Size, err)
				case longer != (n > most):
					t.Errorf("%d bytes: longer is %v", n, longer)
				}
			}
		}
	}
}

// TestBodiesThatDoNotKeepTheirLength holds that a body which passes is as long
// as it said: what is behind it would be another request.
func TestBodiesThatDoNotKeepTheirLength(t *testing.T) {
	for _, n := range []int{999, 1001} {
		err := NewBody(strings.NewReader(strings.Repeat("x", n)), 1000).Pass(io.Discard, 1<<20)
		if e := AsError(err); e.Code != "request_body_unreadable" {
			t.Errorf("%d bytes of 1000: %v", n, err)
		}
	}
}

// clocked notes what becomes of its clock.
type clocked struct {
	io.Reader
	log *[]string
}

func (c clocked) Pause() { *c.log = append(*c.log, "pause") }
func (c clocked) Stop()  { *c.log = append(*c.log, "stop") }

func (c clocked) Write(p []byte) (int, error) {
	*c.log = append(*c.log, "write")
	return len(p), nil
}

// TestTheClockStandsStill holds that it does while somebody else is waited for.
func TestTheClockStandsStill(t *testing.T) {
	var log []string
	c := clocked{iotest.OneByteReader(strings.NewReader("abc")), &log}
	b := NewBody(c, -1)
	if _, whole, err := b.ReadShort(1, 10); whole || err != nil {
		t.Fatal(whole, err)
	}
	if err := b.Pass(c, 10); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if got := strings.Join(log, " "); got != "pause write pause write stop" {
		t.Errorf("it went %s", got)
	}
}
