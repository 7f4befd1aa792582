package admin

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"sluice/internal/infer"
)

// call sends a request to a and returns the answer, in which ID stands for id.
func call(t *testing.T, a *Admin, method, pattern, param, body string) (status int, text string) {
	t.Helper()
	for _, c := range a.Calls() {
		if c.Method == method && c.Pattern == pattern {
			got := new(client)
			if err := c.Handler.Serve(context.Background(), &infer.Request{ID: "id-1", Param: param, Body: []byte(body)}, infer.NewReply(got)); err != nil {
				t.Fatal(err)
			}
			return got.status, got.body.String()
		}
	}
	t.Fatalf("nothing answers %s %s", method, pattern)
	return 0, ""
}

// TestAWorkersLife follows one worker through the API: each step is a call, and
// ID stands for what the first one answered.
func TestAWorkersLife(t *testing.T) {
	a, _ := fleetOf(t, "")
	id := ""
	for _, step := range []struct {
		name, method, body string
		status             int
		want               []string // parts of the answer
	}{
		{"added", "POST", `{"url":"http://10.0.0.1:8000/","api_key":"hunter22","models":[{"id":"m"}],"unknown":1}`, 202, []string{`"status":"accepted"`, `"location":"/workers/`}},
		{"added again", "POST", `{"url":"http://10.0.0.1:8000"}`, 409, []string{`"code":"WORKER_ALREADY_EXISTS"`, "ID"}},
		{"shown, but for its key", "GET", "", 200, []string{`"id":"ID"`, `"model_id":"m"`, `"url":"http://10.0.0.1:8000"`, `"priority":50`, `"worker_type":"regular"`}},
		{"updated", "PATCH", `{"priority":7,"labels":{"zone":"a"}}`, 202, []string{`"worker_id":"ID"`}},
		{"which shows", "GET", "", 200, []string{`"priority":7`, `"zone":"a"`, `"model_id":"m"`}},
		{"updated in what cannot be", "PATCH", `{"priority":8,"models":[{"id":"o"}]}`, 400, []string{`"code":"BAD_REQUEST"`, `unknown field \"models\"`, "want priority, cost, labels, api_key or health, and PUT"}},
		{"updated in what no health has", "PATCH", `{"health":{"timeout":3}}`, 400, []string{`unknown field \"timeout\"`}},
		{"updated twice at once", "PATCH", `{"priority":8}{"priority":9}`, 400, []string{"something follows the JSON"}},
		{"updated in one field twice", "PATCH", `{"priority":8,"priority":9}`, 400, []string{"priority is there twice"}},
		{"updated in one label twice", "PATCH", `{"labels":{"a":"x","a":"y"}}`, 400, []string{"labels.a is there twice"}},
		{"updated in other letters", "PATCH", `{"Priority":8}`, 400, []string{`unknown field \"Priority\"; want \"priority\"`}},
		{"updated by what is no text", "PATCH", `{"labels":{"a":"\ud800"}}`, 400, []string{"labels.a has one half of a surrogate pair"}},
		{"updated by null", "PATCH", `null`, 400, []string{"it is null; want an object"}},
		{"updated by nulls, as if they were not there", "PATCH", `{"priority":null,"labels":null}`, 202, []string{`"worker_id":"ID"`}},
		{"updated by nothing", "PATCH", `{}`, 202, []string{`"worker_id":"ID"`}},
		{"which leaves all as it was", "GET", "", 200, []string{`"priority":7`, `"model_id":"m"`}},
		{"updated with nonsense", "PATCH", `{"priority":"high"}`, 400, []string{`"code":"BAD_REQUEST"`}},
		{"replaced at another address", "PUT", `{"url":"http://10.0.0.2:8000"}`, 400, []string{`"code":"BAD_REQUEST"`}},
		{"replaced by one of two", "PUT", `{"url":"http://10.0.0.1:8000","models":[{"id":"n"}],"models":[]}`, 400, []string{"models is there twice"}},
		{"replaced", "PUT", `{"url":"http://10.0.0.1:8000","models":[{"id":"n"}],"unknown":{"URL":1},"kv_role":null}`, 202, []string{`"worker_id":"ID"`}},
		{"replaced with ranks that nobody asks for", "PUT", `{"url":"http://10.0.0.1:8000","models":[{"id":"n"}],"dp_size":2}`, 202, []string{"background processing; dp_size does nothing without --dp-aware"}},
		{"which shows", "GET", "", 200, []string{`"priority":50`, `"model_id":"n"`}},
		{"removed", "DELETE", "", 202, []string{`"worker_id":"ID"`}},
		{"gone", "GET", "", 404, []string{`"code":"WORKER_NOT_FOUND"`}},
		{"removed again", "DELETE", "", 404, []string{`"code":"WORKER_NOT_FOUND"`}},
	} {
		t.Run(step.name, func(t *testing.T) {
			pattern := "/workers/{id}"
			if step.method == "POST" {
				pattern = "/workers"
			}
			status, text := call(t, a, step.method, pattern, id, step.body)
			if status != step.status {
				t.Fatalf("got %d %s, want %d", status, text, step.status)
			}
			if id == "" {
				var said struct {
					ID string `json:"worker_id"`
				}
				if err := json.Unmarshal([]byte(text), &said); err != nil || said.ID == "" {
					t.Fatalf("no id in %s: %v", text, err)
				}
				id = said.ID
			}
			for _, want := range step.want {
				if !strings.Contains(strings.ReplaceAll(text, id, "ID"), want) {
					t.Errorf("%s is missing in %s", want, text)
				}
			}
			if strings.Contains(text, "hunter22") {
				t.Errorf("the worker's key is shown: %s", text)
			}
		})
	}
}

func TestWhatIsNoWorker(t *testing.T) {
	a, _ := fleetOf(t, "")
	for body, want := range map[string]string{
		``:                                  "the body is not a worker",
		`{"urll":"x"}`:                      "missing field `url`",
		`{"url":"10.0.0.1:80"}`:             "scheme",
		`{"url":"grpc://h:1"}`:              "not supported yet",
		`{"url":"http://u:hunter22@h:1"}`:   "must not hold a user or password",
		`{"url":"http://h","priority":"x"}`: "the body is not a worker: priority is a string; want a whole number",

		// What can be read in two ways, or is no text:
		`{"url":"http://h","api_key":"hunter22","api_key":"k"}`:           "api_key is there twice",
		`{"url":"http://h","health":{"timeout_secs":1,"timeout_secs":2}}`: "health.timeout_secs is there twice",
		`{"url":"http://h","models":[{"id":"a"},{"id":"a","id":"b"}]}`:    "models[1].id is there twice",
		`{"url":"http://h","API_Key":"hunter22"}`:                         `unknown field \"API_Key\"; want \"api_key\"`,
		`{"url":"http://h","models":[{"id":"\ud800"}]}`:                   "models[0].id has one half of a surrogate pair",
		`{"url":"http://h","api_key":7}`:                                  "api_key is a number; want a string",
		`{"url":"http://h"}{}`:                                            "something follows the JSON",
	} {
		status, text := call(t, a, "POST", "/workers", "", body)
		if status != 400 || !strings.Contains(text, want) || !strings.Contains(text, `"code":"BAD_REQUEST"`) || strings.Contains(text, "hunter22") {
			t.Errorf("%s: got %d %s, want 400 with %q", body, status, text, want)
		}
	}
	if status, text := call(t, a, "GET", "/workers/{id}", "zzz", ""); status != 400 || !strings.Contains(text, "expected UUID") {
		t.Errorf("an id that is none: got %d %s, want 400", status, text)
	}
}
