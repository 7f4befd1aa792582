package wasm

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseSpec(t *testing.T) {
	got, err := ParseSpec("door = /opt/door.wasm;order=-3;enabled=false;fail_closed=true;paths=/v1/*,/generate;models=a,b*;tenants=acme,dev-*;attach_points=OnRequest,OnEnd;" +
		"isolation=shared;max_memory_pages=17;max_execution_time_ms=70;max_stack_size=65536;max_body_size=1234;max_instances=9;config=a=b")
	want := Spec{
		Name: "door", Path: "/opt/door.wasm", Order: -3, Disabled: true, FailClosed: true, Paths: []string{"/v1/*", "/generate"}, Models: []string{"a", "b*"}, Tenants: []string{"acme", "dev-*"},
		Attach: []Hook{OnRequest, OnEnd}, MaxBody: 1234, FromConfig: true,
		Settings: Settings{Isolation: Shared, Limits: Limits{MemoryPages: 17, Stack: 65536}, Time: 70 * time.Millisecond, Instances: 9, Config: "a=b"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	for text, want := range map[string]string{
		"":                                  "want name=/path/to/file.wasm",
		"m=rel.wasm":                        "is not absolute",
		"=/m.wasm":                          "needs a name",
		"m=/m.wasm;":                        "setting 1 is not key=value",
		"m=/m.wasm;order=1;config=a;b":      "setting 3 is not key=value",
		"m=/m.wasm;fail_close=true":         `unknown setting "fail_close"`,
		"m=/m.wasm;fail_closed=maybe":       `fail_closed is "maybe"; want true or false`,
		"m=/m.wasm;order=x":                 `order is "x"; want a whole number`,
		"m=/m.wasm;paths=":                  "which no request has",
		"m=/m.wasm;tenants=":                "tenants has one of 0 bytes",
		"m=/m.wasm;attach_points=Tuesday":   "want one of OnRequest",
		"m=/m.wasm;max_stack_size=1":        "between 65536 and 16777216",
		"m=/m.wasm;max_instances=5000":      "between 1 and 4096",
		"m=/m.wasm;max_memory_pages=-1":     `max_memory_pages is "-1"; want a whole number`,
		"m=/m.wasm;max_body_size=999999999": "between 0 and 104857600",
	} {
		if _, err := ParseSpec(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// TestSecretsOfModulesAreNotTold: what a module is given as its configuration may
// be a key.
func TestSecretsOfModulesAreNotTold(t *testing.T) {
	for _, text := range []string{"m=/m.wasm;config=k=hunter2;order=x", "m=/m.wasm;config=k;hunter2", "m=/m.txt;config=hunter2"} {
		err := Config{Enable: true, Modules: []string{text}}.Validate()
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), `wasm-module "m=/m.`) {
			t.Errorf("got %v", err)
		}
	}
}
