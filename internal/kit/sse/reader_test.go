package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// read returns all events, as reference writes them, and the error behind them.
func read(rd *Reader) (events []string, err error) {
	for {
		e, err := rd.Next()
		if err != nil {
			return events, err
		}
		events = append(events, fmt.Sprintf("%q %q %q", e.Name, e.Data, e.ID))
	}
}

func TestEventsAreRead(t *testing.T) {
	f := func(stream string, wantErr error, want ...string) {
		t.Helper()
		for name, r := range map[string]io.Reader{
			"at once": strings.NewReader(stream), "by the byte": iotest.OneByteReader(strings.NewReader(stream)),
			"with the error": iotest.DataErrReader(strings.NewReader(stream)),
		} {
			got, err := read(NewReader(r))
			if fmt.Sprint(got) != fmt.Sprint(want) || err != wantErr {
				t.Errorf("%.100q %s:\n got %s, %v\nwant %s, %v", stream, name, got, err, want, wantErr)
			}
		}
	}
	f("", io.EOF)
	f("data: a\n\n", io.EOF, `"" "a" ""`)
	f("data: a\ndata:b\ndata:  c\n\n", io.EOF, `"" "a\nb\n c" ""`)
	f("event: x\nid: 7\ndata: a\n\ndata: b\n\n", io.EOF, `"x" "a" "7"`, `"" "b" "7"`)
	f("id: 7\n\nid\ndata: b\n\n", io.EOF, `"" "b" ""`)
	f("id: 7\nid: 8\x00\ndata: b\n\n", io.EOF, `"" "b" "7"`)
	f("event: lost\n\ndata: b\n\n", io.EOF, `"" "b" ""`)
	f(": ping\n\ndata: a\n: ping\ndata: b\nretry: 1\nx\n\n: ping\n", io.EOF, `"" "a\nb" ""`)
	f("data\n\ndata:\ndata:\n\n", io.EOF, `"" "" ""`, `"" "\n" ""`)
	f("data: a\r\n\r\ndata: b\r\rdata: c\n\r\n\ndata: d\r\n\n", io.EOF, `"" "a" ""`, `"" "b" ""`, `"" "c" ""`, `"" "d" ""`)
	f("\xEF\xBB\xBFdata: a\n\n\xEF\xBB\xBFdata: b\n\n", io.EOF, `"" "a" ""`)
	f("\xEF\xBB\xBF", io.EOF)
	f("data: a\n\ndata: b", io.ErrUnexpectedEOF, `"" "a" ""`)
	f("data: a\n\ndata: b\n", io.ErrUnexpectedEOF, `"" "a" ""`)
	f("id: 1\n", io.ErrUnexpectedEOF)
	f(": pin", io.ErrUnexpectedEOF)
	f("data: a\r\n\r", io.EOF, `"" "a" ""`)
	f("data: "+strings.Repeat("x", 100_000)+"\n\n", io.EOF, `"" "`+strings.Repeat("x", 100_000)+`" ""`)
}

func TestLongEventsAreRefused(t *testing.T) {
	f := func(stream string, want error, events int) {
		t.Helper()
		rd := NewReader(strings.NewReader(stream))
		rd.Limit = 20
		got, err := read(rd)
		if err != want || len(got) != events {
			t.Errorf("%.100q: %d events, %v, want %d, %v", stream, len(got), err, events, want)
		}
		if _, again := rd.Next(); again != err {
			t.Errorf("%.100q: then %v, want %v again", stream, again, err)
		}
	}
	f("data: 01234567890123\n\ndata: b\n\n", io.EOF, 2)
	f("data: a\n\ndata: 012345678901234\n\n", ErrTooLong, 1)
	f("data: 0123\ndata: 0123\n\n", io.EOF, 1)
	f("data: 0123\ndata: 01234\n\n", ErrTooLong, 0)
	f(strings.Repeat(": ping\n", 100)+"data: a\n\n", io.EOF, 1)
	f("data: a\n\n:"+strings.Repeat("x", 100), ErrTooLong, 1)
	f(strings.Repeat("x", 1<<16), ErrTooLong, 0)
	f("data: a\n\ndata: b", io.ErrUnexpectedEOF, 1)

	got, err := read(NewReader(strings.NewReader("data: " + strings.Repeat("x", DefaultLimit) + "\n\n")))
	if err != ErrTooLong || len(got) != 0 {
		t.Errorf("over the default limit: %d events, %v", len(got), err)
	}
}

func TestReadingFails(t *testing.T) {
	broken := errors.New("cable cut")
	got, err := read(NewReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(broken))))
	if !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("%v, %v, want one event and the cause", got, err)
	}
	if _, err := NewReader(idle{}).Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("nothing is ever read: %v", err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// An event must not wait for what comes after it.
func TestEventsAreToldAtOnce(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r"} {
		r, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "data: a"+end)
		}()
		if e, err := NewReader(r).Next(); err != nil || string(e.Data) != "a" {
			t.Errorf("behind %q: %q, %v", end, e.Data, err)
		}
		_ = w.Close()
	}
}

// pieces reads b in pieces of random length.
type pieces struct {
	b   []byte
	rnd *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:1+p.rnd.IntN(min(len(p.b), 50))])
	p.b = p.b[n:]
	return n, nil
}

// FuzzReader holds that it does not matter where a stream breaks, and that the
// events are those of the standard.
func FuzzReader(f *testing.F) {
	for i, s := range streams {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		want, boundary := reference(string(stream))
		wantErr := io.ErrUnexpectedEOF
		if boundary {
			wantErr = io.EOF
		}
		for _, r := range []io.Reader{bytes.NewReader(stream), &pieces{stream, rand.New(rand.NewPCG(seed, 1))}} {
			if got, err := read(NewReader(r)); fmt.Sprint(got) != fmt.Sprint(want) || err != wantErr {
				t.Fatalf("%q:\n got %s, %v\nwant %s, %v", stream, got, err, want, wantErr)
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	stream := strings.Repeat(chunk, 1000)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		rd := NewReader(strings.NewReader(stream))
		for n := 0; ; n++ {
			if _, err := rd.Next(); err != nil {
				if n != 1000 {
					b.Fatal(n, err)
				}
				break
			}
		}
	}
}
