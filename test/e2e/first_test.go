// Package e2e sees the program only from outside: processes, HTTP, signals.
package e2e

import (
	"flag"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"sluice/test/program"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		// Most tests here wait for processes; two at a time, on two cores,
		// would leave both idle.
		_ = flag.Set("test.parallel", "6")
	}
	code := m.Run()
	program.Clean()
	os.Exit(code)
}

func TestAFirstAnswer(t *testing.T) {
	g, _ := program.Fleet(t, 2, []string{"--model", "m"}, nil)
	res, err := http.Post(g.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); res.StatusCode != 200 || !strings.HasSuffix(s, "data: [DONE]\n\n") || !strings.Contains(s, `"delta":{"content"`) {
		t.Errorf("got %d:\n%s", res.StatusCode, s)
	}
}
