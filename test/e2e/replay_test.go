package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sluice/test/program"
)

// TestWhatWasServedIsReplayed: the gateway records, and its recording is
// simulated: the prompts have in common what they had.
func TestWhatWasServedIsReplayed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "requests.jsonl")
	g, _ := program.Fleet(t, 2, []string{"--model", "m"}, []string{"--policy", "cost", "--route-log", file})
	shared := strings.Repeat("You are a pilot of a very large ship. ", 200)
	const requests = 20
	for i := range requests {
		body := fmt.Sprintf(`{"model":"m","max_tokens":3,"messages":[{"role":"system","content":%q},{"role":"user","content":"Question %d?"}]}`, shared, i)
		resp, err := http.Post(g.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	g.Signal(t, syscall.SIGTERM)
	if code := g.Wait(t); code != 0 {
		t.Fatalf("the gateway ended with %d:\n%s", code, g.Log())
	}
	out, errs, code := program.Run(t, "replay", "--trace", file, "--policies", "cost", "--workers", "1", "--warmup", "0", "--json")
	var res struct {
		Requests int `json:"requests"`
		Rows     []struct {
			Requests int     `json:"requests"`
			Hit      float64 `json:"hit"`
		} `json:"rows"`
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil || code != 0 {
		b, _ := os.ReadFile(file)
		t.Fatalf("exit %d, %v: %s%s\nof %.2000s", code, err, out, errs, b)
	}
	if res.Requests != requests || len(res.Rows) != 1 || res.Rows[0].Requests != requests || res.Rows[0].Hit < 0.5 {
		t.Errorf("%+v", res)
	}
}
