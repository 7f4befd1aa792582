package hook

import (
	"strings"
	"testing"

	"sluice/internal/wasm"
)

// TestNamesThatAreTooLong: a thousand headers with names of a thousand bytes each
// took half a second to set, for which no limit of the module's counted.
func TestNamesThatAreTooLong(t *testing.T) {
	name := strings.Repeat("n", wasm.MaxFieldName+1)
	for _, a := range []wasm.Action{
		{Remove: []string{name}}, {Set: []wasm.Field{{Name: name}}}, {Add: []wasm.Field{{Name: "x-a"}, {Name: name}}},
	} {
		a.Kind = wasm.Modify
		v := &visit{action: a}
		if err := v.check(new(module), wasm.OnRequest); err == nil || err.Error() != "answer: its action has a header's name of 257 bytes; at most 256 are allowed" {
			t.Errorf("%v is taken as %v", a, err)
		}
	}
	v := &visit{action: wasm.Action{Kind: wasm.Modify, Set: []wasm.Field{{Name: name[1:]}}}}
	if err := v.check(new(module), wasm.OnRequest); err != nil {
		t.Error(err)
	}
}
