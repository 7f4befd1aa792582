package wasm

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/internal/kit/bubble"
	"sluice/internal/wasm/core"
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
		if _, err := s.get(t.Context(), &set, []byte("x"), func(context.Context) (*code, error) { tried.Add(1); return nil, no }); !errors.Is(err, no) {
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
		if _, err := s.get(t.Context(), &set, []byte("x"), func(context.Context) (*code, error) { panic("no such opcode") }); err == nil || !strings.Contains(err.Error(), "no such opcode") {
			t.Errorf("got %v", err)
		}
	}
	if len(s.all) != 0 {
		t.Errorf("%d are kept", len(s.all))
	}
}

// A workshop is a shelf of components that are compiled for as long as a test wants.
type workshop struct {
	*shelf
	let   chan struct{} // one word lets one compilation end
	begun atomic.Int32
	now   atomic.Int32 // are being compiled
	most  atomic.Int32
	ended atomic.Int32 // because of their context
}

func (w *workshop) get(ctx context.Context, name string) error {
	set := DefaultSettings()
	_, err := w.shelf.get(ctx, &set, []byte(name), func(ctx context.Context) (*code, error) {
		w.begun.Add(1)
		if n := w.now.Add(1); n > w.most.Load() {
			w.most.Store(n)
		}
		defer w.now.Add(-1)
		<-w.let
		if ctx.Err() != nil {
			w.ended.Add(1)
		}
		return new(code), nil
	})
	return err
}

// TestOneThatCompilesForEver holds that components that are compiled for minutes
// take mostCompiled cores at most, that who registers another is told so after a
// while, that nothing is compiled for which nobody waits, and that what comes of
// it in the end is there for who asks again.
func TestOneThatCompilesForEver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := &workshop{shelf: newShelf(1 << 30), let: make(chan struct{})}
		errs := make(map[string]error)
		var mu sync.Mutex
		ask := func(ctx context.Context, name string) {
			err := w.get(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		}
		begin := time.Now()
		for _, name := range []string{"slow 1", "slow 2"} {
			go ask(t.Context(), name)
		}
		synctest.Wait()
		gone, leave := context.WithCancel(t.Context())
		go ask(t.Context(), "honest")
		go ask(gone, "of one who leaves")
		time.Sleep(time.Second)
		leave()
		time.Sleep(mostCompiling)
		synctest.Wait()
		if got := w.most.Load(); got != mostCompiled {
			t.Errorf("%d are compiled at once, want %d", got, mostCompiled)
		}
		for name, want := range map[string]string{
			"slow 1": "compiling it takes longer than 2m0s", "slow 2": "compiling it takes longer than 2m0s",
			"honest": "it has waited 2m0s for its turn to be compiled: 2 others are", "of one who leaves": "it was waited for no longer",
		} {
			if errs[name] == nil || !strings.Contains(errs[name].Error(), want) {
				t.Errorf("%s: %v, want %s", name, errs[name], want)
			}
		}
		if took := time.Since(begin); took > mostCompiling+2*time.Second {
			t.Errorf("they are told after %s", took)
		}
		go ask(t.Context(), "honest") // again, and soon there is a place
		synctest.Wait()
		close(w.let)
		synctest.Wait()
		if errs["honest"] != nil || w.begun.Load() != 3 {
			t.Errorf("%v; %d were compiled, want the two slow ones and the honest one", errs["honest"], w.begun.Load())
		}
		if w.ended.Load() != 2 {
			t.Errorf("%d were told that it takes too long, want 2", w.ended.Load())
		}
		if err := w.get(t.Context(), "slow 1"); err != nil || w.begun.Load() != 3 {
			t.Errorf("what was compiled in the end: %v, and %d were compiled", err, w.begun.Load())
		}
	})
}

// TestManyWaitForOne holds that it is compiled while anybody waits for it.
func TestManyWaitForOne(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := &workshop{shelf: newShelf(1 << 30), let: make(chan struct{})}
		for range mostCompiled {
			w.places <- struct{}{}
		}
		first, leave := context.WithCancel(t.Context())
		var left, got error
		go func() { left = w.get(first, "m") }()
		go func() { got = w.get(t.Context(), "m") }()
		synctest.Wait()
		leave()
		synctest.Wait()
		<-w.places
		close(w.let)
		synctest.Wait()
		if left == nil || got != nil || w.begun.Load() != 1 {
			t.Errorf("who leaves: %v; who stays: %v; compiled %d times", left, got, w.begun.Load())
		}
	})
}

// TestTooMuchCode holds that a component with too much to compile is refused
// before it is compiled, and one with much data is not.
func TestTooMuchCode(t *testing.T) {
	section := func(id byte, n int) []byte {
		return append(append([]byte{id}, binary.AppendUvarint(nil, uint64(n))...), make([]byte, n)...)
	}
	for id, want := range map[byte]bool{10: true, 11: false} {
		m := &core.Module{Binary: append(slices.Clone(core.Header), section(id, maxCode+1)...)}
		if err := checkCode(m); (err != nil) != want || err != nil && !strings.Contains(err.Error(), "at most 25165824 are compiled") {
			t.Errorf("section %d: %v", id, err)
		}
	}
}
