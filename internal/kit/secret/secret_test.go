package secret

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNothingPrintsASecret(t *testing.T) {
	s := New("hunter2")
	j, err := json.Marshal(map[string]any{"k": s, "l": []String{s}})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", s, "in", struct{ K String }{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", s, "in", struct{ K String }{s})
	for _, out := range []string{fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), fmt.Sprintf("%v %+v %#v", struct{ K String }{s}, &s, []String{s}), string(j), log.String()} {
		if strings.Contains(out, "hunter2") {
			t.Errorf("the secret shows in %s", out)
		}
	}
}

func TestEqual(t *testing.T) {
	for in, want := range map[string]bool{"hunter2": true, "hunter": false, "": false, "Hunter2": false} {
		if got := New("hunter2").Equal([]byte(in)); got != want {
			t.Errorf("Equal(%q) = %v, want %v", in, got, want)
		}
	}
	if !New("").Equal(nil) {
		t.Error("nothing is not nothing")
	}
	long := []byte("sk-0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrst")
	key := New(string(long))
	if n := testing.AllocsPerRun(100, func() { key.Equal(long) }); n != 0 {
		t.Errorf("comparing allocates %v times, want not at all", n)
	}
}
