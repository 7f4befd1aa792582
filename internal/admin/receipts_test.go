package admin

import (
	"encoding/json"
	"testing"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/infer"
	"sluice/internal/route"
)

// TestReceiptsAreListed holds what is asked for by a query, and which queries are
// refused.
func TestReceiptsAreListed(t *testing.T) {
	a, _ := fleetOf(t, "")
	var asked int
	a.own = func(name string) string {
		if name == "alias" {
			return "m"
		}
		return name
	}
	a.recent = func(n int, match func(*route.Receipt) bool) []route.Receipt {
		asked = n
		out := []route.Receipt{}
		for _, r := range []route.Receipt{
			{Request: "2", Model: "n", Worker: "http://a", Time: time.Unix(2, 0).UTC()},
			{Request: "1", Model: "m", Worker: "http://b", Time: time.Unix(1, 0).UTC()},
		} {
			if match(&r) {
				out = append(out, r)
			}
		}
		return out
	}
	for _, tt := range []struct {
		query string
		n     int    // 0 for a refusal
		want  string // ids, in order
	}{
		{"", 100, "21"},
		{"n=7", 7, "21"},
		{"n=1000&model=m", 1000, "1"},
		{"worker=http%3A%2F%2Fa", 100, "2"},
		{"model=alias", 100, "1"},
		{"model=m&worker=http://a", 100, ""},
		{"n=1001", 0, ""}, {"n=0", 0, ""}, {"n=-1", 0, ""}, {"n=x", 0, ""}, {"n=99999999999999999999", 0, ""}, {"%zz", 0, ""},
		{"limit=5", 0, ""}, {"n=1&n=2", 0, ""}, {"model=m&model=n", 0, ""}, {"n=7&Worker=a", 0, ""}, {"n=&model=", 100, "21"},
	} {
		asked = 0
		got := new(client)
		err := a.listReceipts(t.Context(), &infer.Request{Query: tt.query}, infer.NewReply(got))
		if refused := infer.AsError(err); err != nil && (refused.Status != 400 || tt.n != 0) || err == nil && tt.n == 0 || asked != tt.n {
			t.Errorf("%q: %v, %d asked for; want %d", tt.query, err, asked, tt.n)
		}
		if err != nil {
			continue
		}
		var list struct {
			Receipts []struct {
				Request string `json:"request_id"`
			}
		}
		if err := json.Unmarshal([]byte(got.body.String()), &list); err != nil || list.Receipts == nil {
			t.Errorf("%q: %s, %v", tt.query, got.body.String(), err)
		}
		ids := ""
		for _, r := range list.Receipts {
			ids += r.Request
		}
		if ids != tt.want {
			t.Errorf("%q: %s; want %q", tt.query, got.body.String(), tt.want)
		}
	}
}

// TestWhyThereAreNoReceipts: an empty list says why if none can come.
func TestWhyThereAreNoReceipts(t *testing.T) {
	a, _ := fleetOf(t, "")
	a.recent = func(int, func(*route.Receipt) bool) []route.Receipt { return []route.Receipt{} }
	for kept, want := range map[int]string{
		0:    `{"receipts":[],"kept":0,"note":"No decision is remembered: --route-receipts is 0."}`,
		4096: `{"receipts":[],"kept":4096}`,
	} {
		a.kept = kept
		if _, got := call(t, a, "GET", "/routes/recent", "", ""); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestReadyIsWhoIsRoutedTo holds that readiness goes by the workers that requests
// are routed among: a table may be a moment behind the fleet.
func TestReadyIsWhoIsRoutedTo(t *testing.T) {
	a, _ := fleetOf(t, "")
	if _, err := a.fleet.Add(fleet.Spec{URL: "http://10.0.0.1:8000", Models: []fleet.ModelCard{{ID: "m"}}}); err != nil {
		t.Fatal(err)
	}
	table := new(fleet.Snapshot)
	a.routed = func() *fleet.Snapshot { return table }
	if status, text := call(t, a, "GET", "/readiness", "", ""); status != 503 {
		t.Errorf("before there is a table: %d %s", status, text)
	}
	table = a.fleet.Snapshot()
	if status, text := call(t, a, "GET", "/readiness", "", ""); len(table.Ready) > 0 && status != 200 {
		t.Errorf("when there is a table: %d %s", status, text)
	}
	b := New(Options{Fleet: a.fleet, Draining: func() bool { return false }})
	if b.routed() != a.fleet.Snapshot() {
		t.Error("without a router, the fleet's workers do not count")
	}
}
