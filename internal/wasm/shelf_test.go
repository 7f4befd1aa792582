package wasm

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestAComponentIsCompiledOnce holds that many who load a component at once, and
// those who load it again later, share what was compiled; and that it goes once
// there is no room for what nobody uses.
func TestAComponentIsCompiledOnce(t *testing.T) {
	e, err := NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	one, two := version(t, 1), version(t, 2)
	e.shelf = newShelf(codeSize(one))
	var codes sync.Map
	var modules [8]*Module
	var wg sync.WaitGroup
	for i := range modules {
		wg.Go(func() {
			m, err := e.Load(context.Background(), one, DefaultSettings())
			if err != nil {
				t.Error(err)
				return
			}
			codes.Store(m.code, true)
			modules[i] = m
		})
	}
	wg.Wait()
	n := 0
	codes.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("eight who loaded a component have %d codes", n)
	}
	first := modules[0].code
	for _, m := range modules {
		m.Close()
	}
	again, err := e.Load(t.Context(), one, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	if again.code != first {
		t.Error("it was compiled again, although there was room")
	}
	set := DefaultSettings()
	set.Limits.Stack *= 2
	other, err := e.Load(t.Context(), one, set)
	if err != nil {
		t.Fatal(err)
	}
	if other.code == first {
		t.Error("two limits share one code")
	}
	later, err := e.Load(t.Context(), two, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	other.Close()
	later.Close() // there is room for one, which is the last
	if len(e.shelf.all) != 1 || e.shelf.size != codeSize(two) || e.shelf.idle.Front().Value.(*shelved).code != later.code {
		t.Errorf("%d are kept, %d bytes", len(e.shelf.all), e.shelf.size)
	}
	if again, err = e.Load(t.Context(), one, DefaultSettings()); err != nil {
		t.Fatal(err)
	}
	if again.code == first {
		t.Error("code that is gone is used")
	}
	if err := again.OnRequest(t.Context(), new(Call), request(10), new(Action)); err != nil {
		t.Error(err)
	}
	again.Close()
}

// TestWhatCannotBeCompiledIsTriedAgain: a failure is told to all who wait, and
// not kept.
func TestWhatCannotBeCompiledIsTriedAgain(t *testing.T) {
	s := newShelf(1 << 20)
	set, no := DefaultSettings(), errors.New("no")
	var tried atomic.Int32
	for range 3 {
		if _, err := s.get(&set, []byte("x"), func() (*code, error) { tried.Add(1); return nil, no }); !errors.Is(err, no) {
			t.Error(err)
		}
	}
	if tried.Load() != 3 || len(s.all) != 0 || s.size != 0 {
		t.Errorf("tried %d times, %d are kept", tried.Load(), len(s.all))
	}
}

// TestACompilerThatPanics: the process lives, nobody waits for ever, and who
// comes later may try again.
func TestACompilerThatPanics(t *testing.T) {
	s := newShelf(1 << 20)
	set := DefaultSettings()
	for range 2 {
		if _, err := s.get(&set, []byte("x"), func() (*code, error) { panic("no such opcode") }); err == nil || !strings.Contains(err.Error(), "no such opcode") {
			t.Errorf("got %v", err)
		}
	}
	if len(s.all) != 0 {
		t.Errorf("%d are kept", len(s.all))
	}
}
