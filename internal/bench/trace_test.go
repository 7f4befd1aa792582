package bench

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseTrace(t *testing.T) {
	got, err := parseTrace(strings.NewReader(`{"timestamp": 500, "input_length": 40160, "output_length": 6, "hash_ids": [0, 1, 2]}

{"timestamp": 527.5, "input_length": 1, "output_length": 0, "more": {"x": 1}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []row{{0, 40160, 6, []int64{0, 1, 2}}, {27500 * time.Microsecond, 1, 0, nil}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTraceFaultsNameTheLine(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		_, err := parseTrace(strings.NewReader(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %q", in, err, want)
		}
	}
	ok := `{"timestamp":1,"input_length":2,"output_length":3}` + "\n"
	f("", "no rows")
	f("\n \n", "no rows")
	f(ok+"x", "line 2: invalid character")
	f(ok+"[]", "line 2: json")
	f(ok+`{"timestamp":1,"input_length":2}`, "line 2: timestamp, input_length or output_length is missing")
	f(ok+ok+`{"timestamp":0,"input_length":2,"output_length":3}`, "line 3: timestamp 0 is before")
	f(`{"timestamp":-1,"input_length":2,"output_length":3}`, "timestamp -1")
	f(`{"timestamp":1e300,"input_length":2,"output_length":3}`, "timestamp 1e+300")
	f(`{"timestamp":1,"input_length":0,"output_length":3}`, "input_length 0")
	f(`{"timestamp":1,"input_length":1e99,"output_length":3}`, "line 1")
	f(`{"timestamp":1,"input_length":1,"output_length":-3}`, "output_length -3")
	f(`{"timestamp":1,"input_length":1,"output_length":3,"hash_ids":["a"]}`, "line 1")
	f(ok+strings.Repeat(" ", maxTraceLine+1), "line 2: longer than")
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
	rows, err := loadTrace(file)
	if err != nil || len(rows) != 1 {
		t.Errorf("%v, %v", rows, err)
	}
	if err := os.WriteFile(file, b.Bytes()[:b.Len()-6], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadTrace(file); err == nil {
		t.Error("a file that is cut off is taken for whole")
	}
}

// FuzzParseTrace holds that what is parsed can be sent: times in order and
// lengths within bounds.
func FuzzParseTrace(f *testing.F) {
	f.Add([]byte(`{"timestamp": 0, "input_length": 40160, "output_length": 6, "hash_ids": [0, 1, 2]}` + "\n" + `{"timestamp": 0.5, "input_length": 1, "output_length": 0}`))
	f.Add([]byte(`{"timestamp": 1e18, "input_length": 1, "output_length": 0}`))
	f.Add([]byte(`{"timestamp": "0"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		rows, err := parseTrace(bytes.NewReader(in))
		if (err == nil) != (len(rows) > 0) {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		var before time.Duration
		for _, r := range rows {
			if r.At < before || r.Input < 1 || r.Input > maxTokens || r.Output < 0 || r.Output > maxTokens {
				t.Fatalf("row %+v after %v", r, before)
			}
			before = r.At
		}
	})
}
