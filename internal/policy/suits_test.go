package policy

import (
	"reflect"
	"strings"
	"testing"

	"sluice/internal/fleet"
)

func TestWhatAPolicyIsFor(t *testing.T) {
	builtinFor(t, "bucket")
	builtinFor(t, "passthrough")
	tests := []struct {
		name string
		c    Config
		want string // part of the error; "" for none
	}{
		{"one for all", Config{Name: "random"}, ""},
		{"one each", Config{Name: "random", Prefill: "bucket", Decode: "least_load"}, ""},
		{"unknown for prefill", Config{Name: "random", Prefill: "x"}, `prefill-policy: unknown policy "x"`},
		{"unknown for decode", Config{Name: "random", Decode: "x"}, `decode-policy: unknown policy "x"`},
		{"bucket for decode", Config{Name: "random", Decode: "bucket"}, "decode-policy: policy bucket is not for decode workers"},
		{"passthrough for prefill", Config{Name: "random", Prefill: "passthrough"}, "prefill-policy: policy passthrough"},
		{"passthrough for decode", Config{Name: "random", Decode: "passthrough"}, "decode-policy: policy passthrough"},
		{"bucket for all", Config{Name: "bucket"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for role, want := range map[fleet.Role]string{fleet.Regular: "bucket", fleet.Prefill: "bucket", fleet.Decode: DefaultConfig().Name} {
		if got := (Config{Name: "bucket"}).For(role); got != want {
			t.Errorf("for %s workers it is %s, want %s", role, got, want)
		}
	}
}

// builtinFor makes a name known while the test runs, if it is not.
func builtinFor(t *testing.T, name string) {
	if _, ok := builtin[name]; !ok {
		builtin[name] = func(*Settings) Policy { return nil }
		t.Cleanup(func() { delete(builtin, name) })
	}
}

func TestWhatAPolicyReadsIsKnown(t *testing.T) {
	for _, name := range Names() {
		if _, ok := reads[name]; !ok {
			t.Errorf("nothing says which settings %s reads", name)
		}
	}
	s := reflect.TypeFor[Settings]()
	for name, l := range reads {
		for _, what := range l {
			section, field, one := strings.Cut(what, ".")
			f, ok := s.FieldByName(section)
			if ok && one {
				_, ok = f.Type.FieldByName(field)
			}
			if !ok {
				t.Errorf("%s reads %s, which is no setting", name, what)
			}
		}
	}
}
