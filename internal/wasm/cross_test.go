package wasm

import (
	"testing"

	"sluice/internal/wasm/component"
)

// TestSmallNumbersAreSmall holds what a component may count on that another one
// calls, whatever that one left in the bits above.
func TestSmallNumbersAreSmall(t *testing.T) {
	flags := component.NewType(component.Type{Kind: component.Flags, Cases: []component.Field{{Name: "a"}, {Name: "b"}, {Name: "c"}}})
	kind := func(k component.Kind) *component.Type { return component.NewType(component.Type{Kind: k}) }
	for _, tt := range []struct {
		typ      *component.Type
		in, want uint64
	}{
		{kind(component.Bool), 0, 0},
		{kind(component.Bool), 2, 1},
		{kind(component.Bool), 0xdead_0000_0000, 0}, // what is above an i32 is nobody's
		{kind(component.U8), 300, 44},
		{kind(component.S8), 0x80, 0xffff_ff80},
		{kind(component.U16), 1<<16 + 7, 7},
		{kind(component.S16), 0xffff, 0xffff_ffff},
		{kind(component.U32), 1<<32 - 1, 1<<32 - 1},
		{kind(component.S64), 1 << 63, 1 << 63},
		{kind(component.Char), 'é', 'é'},
		{flags, 0xff, 7},
	} {
		if got := new(crossing).scalar(tt.typ, tt.in); got != tt.want {
			t.Errorf("%s of %#x is %#x, want %#x", tt.typ, tt.in, got, tt.want)
		}
	}
}

// TestWhatIsNoCharacterIsATrap holds that surrogates and numbers beyond Unicode
// do not pass.
func TestWhatIsNoCharacterIsATrap(t *testing.T) {
	for _, v := range []uint64{0xd800, 0xdfff, 0x110000, 1<<32 - 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%#x passes as a character", v)
				}
			}()
			new(crossing).scalar(component.NewType(component.Type{Kind: component.Char}), v)
		}()
	}
}
