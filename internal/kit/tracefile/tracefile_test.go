package tracefile

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRequestsAreRead(t *testing.T) {
	got, err := Read(strings.NewReader(`{"timestamp": 500, "input_length": 40160, "output_length": 6, "hash_ids": [0, 1, 2]}

{"timestamp": 527.5, "input_length": 1, "output_length": 0, "more": {"x": 1}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Trace{BlockTokens: 512, Rows: []Row{{0, 40160, 6, []int64{0, 1, 2}}, {27500 * time.Microsecond, 1, 0, nil}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRequestsAreSorted(t *testing.T) {
	got, err := Read(strings.NewReader(`{"timestamp":900,"input_length":1,"output_length":1}
{"timestamp":100,"input_length":2,"output_length":1}
{"timestamp":900,"input_length":3,"output_length":1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{{0, 2, 1, nil}, {800 * time.Millisecond, 1, 1, nil}, {800 * time.Millisecond, 3, 1, nil}}
	if d := cmp.Diff(want, got.Rows); d != "" {
		t.Error(d)
	}
}

func TestARecordingSaysHowLongItsBlocksAre(t *testing.T) {
	got, err := Read(strings.NewReader(`{"timestamp":1763726400123,"input_length":300,"output_length":6,"hash_ids":[18446744073709551615, 9223372036854775807,-1],"block_tokens":128}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Trace{BlockTokens: 128, Told: true, Rows: []Row{{0, 300, 6, []int64{-1, 1<<63 - 1, -1}}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSessionsAreRead(t *testing.T) {
	got, err := Read(strings.NewReader(`{"session":"0-0","block_tok":64,"turns":[{"in":100,"out":22,"gap":4.5,"blocks":[0,1]},{"in":150,"out":3,"blocks":[0,2]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Trace{BlockTokens: 64, Told: true, Sessions: []Session{{{100, 22, 4500 * time.Millisecond, []int64{0, 1}}, {150, 3, 0, []int64{0, 2}}}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPublicTracesAreRead(t *testing.T) {
	m, err := Load("testdata/mooncake.jsonl.gz")
	if err != nil || len(m.Rows) != 400 || m.BlockTokens != 512 || len(m.Rows[0].Blocks) != 79 {
		t.Errorf("%v: %+.200v", err, m)
	}
	s, err := Load("testdata/sessions.jsonl.gz")
	if err != nil || len(s.Sessions) != 12 || s.BlockTokens != 64 {
		t.Errorf("%v: %+.200v", err, s)
	}
}

func TestFaultsNameTheLineAndTheValue(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		_, err := Read(strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", in, err, want)
		}
	}
	ok := `{"timestamp":1,"input_length":2,"output_length":3}` + "\n"
	session := `{"turns":[{"in":1,"out":1}]}` + "\n"
	f("", "no rows")
	f("\n \n", "no rows")
	f(ok+"x", "line 2: invalid character")
	f(ok+"[]", "line 2: json")
	f(ok+`{"timestamp":1,"input_length":2}`, "line 2: timestamp, input_length or output_length is missing")
	f(`{"timestamp":-1,"input_length":2,"output_length":3}`, "timestamp -1")
	f(`{"timestamp":1e300,"input_length":2,"output_length":3}`, "timestamp 1e+300")
	f(ok+`{"timestamp":35000000000,"input_length":2,"output_length":3}`, "takes 3.4999999999e+10 ms")
	f(`{"timestamp":1,"input_length":0,"output_length":3}`, "input_length 0")
	f(`{"timestamp":1,"input_length":1e99,"output_length":3}`, "line 1")
	f(`{"timestamp":1,"input_length":1,"output_length":-3}`, "output_length -3")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":["a"]}`, `id "a" of a block`)
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":[1,[2]]}`, `id [2 of a block`)
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":[1.5]}`, "id 1.5 of a block")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":[18446744073709551616]}`, "id 18446744073709551616 of a block")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":[`+strings.Repeat("9", 500)+`]}`, "999… of a block")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":{}}`, "want a list of integers, not {}")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"block_tokens":0}`, "block_tokens 0 is not between")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"block_tokens":8}`+"\n"+ok, "line 2: block_tokens is missing; the lines above have 8")
	f(ok+`{"timestamp":1,"input_length":1,"output_length":3,"block_tokens":8}`, "line 2: block_tokens 8; the lines above have 512")
	f(ok+session, "line 2: the lines above are of another kind")
	f(session+ok, "line 2: the lines above are of another kind")
	f(`{"turns":[]}`, "a session has no turns")
	f(`{"turns":[{"in":1,"out":1},{"in":1}]}`, "turn 2: in or out is missing")
	f(`{"turns":[{"in":0,"out":1}]}`, "turn 1: in 0")
	f(`{"turns":[{"in":1,"out":1,"gap":-1}]}`, "turn 1: gap -1")
	f(ok+strings.Repeat(" ", maxLine+1), "line 2: longer than")
	f(strings.Repeat("\n", maxLines+1), "cut it")
}

// TestPartsOfLinesDoNotSpoilARecording: wherever they stand.
func TestPartsOfLinesDoNotSpoilARecording(t *testing.T) {
	row := func(at int) string {
		return fmt.Sprintf(`{"timestamp":%d,"input_length":300,"output_length":6,"hash_ids":[1],"block_tokens":128}`, at) + "\n"
	}
	f := func(rows, lines, first int, in string) {
		t.Helper()
		got, err := Read(strings.NewReader(in))
		if err != nil {
			t.Errorf("%.200q: %v", in, err)
			return
		}
		if d := got.Damage; len(got.Rows) != rows || d.Lines != lines || d.First != first || (d.Err != nil) != (lines > 0) {
			t.Errorf("%.200q: %d rows, %+v", in, len(got.Rows), d)
		}
	}
	f(2, 0, 0, row(1)+row(2))
	f(2, 1, 2, row(1)+`{"timestamp":3,`+row(4)+row(2))
	f(2, 1, 3, row(1)+row(2)+`{"timestamp":3,"input_le`)
	f(2, 1, 1, `ut_length":3,"hash_ids":[]}`+"\n"+row(1)+row(2))
	f(2, 1, 2, row(1)+"\x00\x00\x00\n"+row(2))
	f(1, 1, 2, row(1)+"{\n")
	f(300, 250, 1, strings.Repeat("{\n"+row(1), 250)+strings.Repeat(row(2), 50))

	bad := func(in, want string) {
		t.Helper()
		if got, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200q: got %+.200v, %v; want %q", in, got, err, want)
		}
	}
	mooncake := `{"timestamp":1,"input_length":2,"output_length":3}` + "\n"
	bad(row(1)+"{\n{\n", "line 2: unexpected end of JSON input (2 of 3 lines cannot be read)")
	bad(strings.Repeat("{\n", fewBad+1)+row(1), "line 1: unexpected end")
	bad(mooncake+mooncake+"{", "line 3: unexpected end")
	bad(mooncake+"{\n"+`{"timestamp":1}`, "line 2: unexpected end")
	bad(row(1)+row(2)+"{\n"+mooncake, "line 4: block_tokens is missing")
	bad(row(1)+`{"timestamp":"1"}`, "line 2: json")
}

func TestCompressedTraceIsKnownByItsBytes(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprintln(z, `{"timestamp":1,"input_length":2,"output_length":3}`)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "t.jsonl")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(file)
	if err != nil || len(got.Rows) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	for _, n := range []int{3, 15, b.Len() - 6} {
		if err := os.WriteFile(file, b.Bytes()[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("a file that is cut off after %d bytes is taken for whole, or not named: %v", n, err)
		}
	}
}

// FuzzRead holds that what is read can be sent: times in order and lengths
// within bounds.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"timestamp": 0, "input_length": 40160, "output_length": 6, "hash_ids": [0, 1, 2]}` + "\n" + `{"timestamp": 0.5, "input_length": 1, "output_length": 0}`))
	f.Add([]byte(`{"timestamp": 1e18, "input_length": 1, "output_length": 0, "block_tokens": 128}`))
	f.Add([]byte(`{"timestamp": "0"}`))
	f.Add([]byte(`{"block_tok":64,"turns":[{"in":100,"out":22,"gap":4.5,"blocks":[0,-1]}]}`))
	f.Add([]byte(`{"turns":[{"in":100,"out":22,"blocks":[[],{},"a,b"]}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		if (len(got.Rows) > 0) == (len(got.Sessions) > 0) || got.BlockTokens < 1 || got.BlockTokens > maxBlockTokens {
			t.Fatalf("%+v", got)
		}
		good := func(in, out int) bool { return in >= 1 && in <= MaxTokens && out >= 0 && out <= MaxTokens }
		var before time.Duration
		for _, r := range got.Rows {
			if r.At < before || !good(r.Input, r.Output) {
				t.Fatalf("row %+v after %v", r, before)
			}
			before = r.At
		}
		for _, s := range got.Sessions {
			for _, u := range s {
				if len(s) == 0 || u.Gap < 0 || !good(u.Input, u.Output) {
					t.Fatalf("turn %+v", u)
				}
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	z, err := os.ReadFile("testdata/mooncake.jsonl.gz")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(z)); err != nil {
			b.Fatal(err)
		}
	}
}
