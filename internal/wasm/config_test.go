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
		"m=/m.wasm;order=1;config=a;b":      "setting 3 is not key=value; a ; within a value is written ;;",
		"m=/m.wasm;;order=1":                "setting 1 is not key=value",
		"m=/m.wasm;config=a;;":              "",
		"m=/m.wasm;config=\xff":             "a configuration that is not UTF-8",
		"m=/m.wasm;fail_close=true":         `unknown setting "fail_close"`,
		"m=/m.wasm;fail_closed=maybe":       `fail_closed is "maybe"; want true or false`,
		"m=/m.wasm;order=x":                 `order is "x"; want a whole number`,
		"m=/m.wasm;order=1;order=2":         `"order" is there twice`,
		"m\x1b[2J=/m.wasm":                  "a control character",
		"m=/m.wasm;paths=":                  "which no request has",
		"m=/m.wasm;tenants=":                "tenants has one of 0 bytes",
		"m=/m.wasm;attach_points=Tuesday":   "want one of OnRequest",
		"m=/m.wasm;max_stack_size=1":        "max_stack_size is 1; want 65536 to 16777216",
		"m=/m.wasm;max_instances=5000":      "max_instances is 5000; want 1 to 4096",
		"m=/m.wasm;max_instances=0":         "max_instances is 0; want 1 to 4096",
		"m=/m.wasm;max_memory_pages=1.5":    `max_memory_pages is "1.5"; want a whole number`,
		"m=/m.wasm;max_memory_pages=-1":     "max_memory_pages is -1; want 1 to 65536",
		"m=/m.wasm;max_memory_pages=65537":  "want 1 to 65536",
		"m=/m.wasm;max_memory_pages=65536":  "",
		"m=/m.wasm;max_body_size=999999999": "max_body_size is 999999999; want 1 to 104857600",
		"m=/m.wasm;max_body_size=0":         "max_body_size is 0; want 1 to 104857600",
		"m=/m.wasm;max_body_size=1":         "",

		"m=/m.wasm;max_execution_time_ms=-5":                    "max_execution_time_ms is -5; want 1 to 300000",
		"m=/m.wasm;max_execution_time_ms=99999999999999999999":  "max_execution_time_ms is 99999999999999999999; want 1 to 300000",
		"m=/m.wasm;max_execution_time_ms=-99999999999999999999": "max_execution_time_ms is -99999999999999999999; want 1 to 300000",
	} {
		_, err := ParseSpec(text)
		if want == "" && err == nil {
			continue
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// TestModulesThatAreNotEnabled holds that no start leaves out modules without a
// word: one may be what guards the door.
func TestModulesThatAreNotEnabled(t *testing.T) {
	for want, c := range map[string]Config{
		"wasm-module needs enable-wasm":    {Modules: []string{"m=/m.wasm"}},
		"wasm-state-dir needs enable-wasm": {StateDir: "/state"},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		c.Enable = true
		if err := c.Validate(); err != nil {
			t.Errorf("enabled: %v", err)
		}
	}
}

// TestSecretsOfModulesAreNotTold: what a module is given as its configuration may
// be a key.
func TestSecretsOfModulesAreNotTold(t *testing.T) {
	for text, want := range map[string]string{
		"m=/m.wasm;config=k=hunter2;order=x": `wasm-module "m=/m.wasm"`, "m=/m.wasm;config=k;hunter2": `wasm-module "m=/m.wasm"`, "m=/m.txt;config=hunter2": `wasm-module "m=/m.txt"`,
		"hunter2": `wasm-module "****": want name=`, "k=hunter2": `wasm-module "****"`, // what a variable's comma has cut
	} {
		err := Config{Enable: true, Modules: []string{text}}.Validate()
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// TestConfigurationsOfModules holds that what a module is given as its
// configuration is what was written, whatever it consists of.
func TestConfigurationsOfModules(t *testing.T) {
	for written, want := range map[string]string{
		"config=":                                   "",
		"config=a=b&c":                              "a=b&c",
		"config=a;;b;order=7":                       "a;b",
		"config=;;;order=7":                         ";",
		"order=7;config=;;;;":                       ";;",
		"order=7; config= two\n lines \n":           " two\n lines \n",
		`order=7;config={"key":"ä, \"b\"","n":[1]}`: `{"key":"ä, \"b\"","n":[1]}`,
	} {
		s, err := ParseSpec("m=/m.wasm;" + written)
		if err != nil || s.Settings.Config != want || strings.Contains(written, "order") && s.Order != 7 {
			t.Errorf("%q: %q and order %d, %v; want %q", written, s.Settings.Config, s.Order, err, want)
		}
	}
}

func TestMask(t *testing.T) {
	for text, want := range map[string]string{
		"m=/m.wasm":                             "m=/m.wasm",
		"m=/m.wasm;order=1":                     "m=/m.wasm;order=1",
		"m=/m.wasm;config=hunter2;order=1":      "m=/m.wasm;config=****;order=1",
		"m=/m.wasm; config = hunter2;;hunter3":  "m=/m.wasm;config=****",
		"m=/m.wasm;order=1;config=hunter2;half": "m=/m.wasm;order=1;config=****;****",
		"m=/m.wasm;paths=/a;;b":                 "m=/m.wasm;paths=/a;;b",
	} {
		if got := (Config{}).Mask(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestSpecFile holds that a slip in a path can be seen, and what may be a secret
// cannot.
func TestSpecFile(t *testing.T) {
	for text, want := range map[string]string{
		"m=/a/m.wasm;config=secret": `"m=/a/m.wasm"`,
		"m=rel/m.wasm;order=1":      `"m=rel/m.wasm"`,
		"token=secret":              `"****"`, // half of a configuration
		"secret":                    `"****"`,
		"":                          `"****"`,
	} {
		if got := SpecFile(text); got != want {
			t.Errorf("%q is told as %s, want %s", text, got, want)
		}
	}
}
