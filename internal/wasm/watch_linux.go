package wasm

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A memory is an image that is mapped privately: the first write to each of its
// pages is a fault, by which the page becomes the instance's own, and it stays
// that. So a call during which no fault happened wrote only to pages that were
// the instance's own before, and those are known since it was last looked. They
// are put back without asking the system for them: that costs as much as the
// call of a small guest, and takes the lock of the whole process's memory, which
// calls on other processors want too.
//
// The system counts the faults of each thread, whoever caused them: the guest,
// Go code that writes for it, or the system itself. So a call stays on its thread
// while it is watched. Faults that are not the guest's, of Go's own memory, are
// counted too; then it is looked for nothing.
//
// What could make a page the instance's own without a fault there, and why it
// does not: huge pages, which come with a fault elsewhere or with none, are
// forbidden for guests' memory; no other thread writes to an instance while a call
// is running; and a call that was not watched, or a part of one, counts as one
// with a fault.

// A watch tells whether an instance's memory has pages of its own that are not
// known yet.
type watch struct {
	on     bool  // one of its memories is put back by pages
	pinned bool  // a call is watched, in this thread
	noisy  bool  // since the last reset there was a fault, or a call that was not watched
	calls  int   // since the last reset
	before int64 // faults of the thread when it began to be watched
	slices int   // that the call has used up

	usage unix.Rusage
}

// faults is how many faults the calling thread has had, -1 if that cannot be
// told.
func (w *watch) faults() int64 {
	if _, _, e := unix.RawSyscall(unix.SYS_GETRUSAGE, uintptr(unix.RUSAGE_THREAD), uintptr(unsafe.Pointer(&w.usage)), 0); e != 0 {
		return -1
	}
	return int64(w.usage.Minflt) + int64(w.usage.Majflt)
}

// begin watches a call until end is called, by the same goroutine.
func (w *watch) begin() {
	if !w.on || w.noisy {
		return
	}
	runtime.LockOSThread()
	w.pinned = true
	w.before = w.faults()
}

// stop notes what has been seen, and lets the call go on in any thread.
func (w *watch) stop() {
	now := w.faults()
	w.noisy = w.noisy || now < 0 || now != w.before
	w.pinned = false
	runtime.UnlockOSThread()
}

// end ends what begin began.
func (w *watch) end() {
	w.calls++
	if w.pinned {
		w.stop()
	} else {
		w.noisy = true
	}
}

// giveWay lets other goroutines run, in a call of a guest. It is not watched
// while they do: to run them beside, another thread would have to be woken.
func (w *watch) giveWay() {
	watched := w.pinned
	if watched {
		w.stop()
	}
	w.rest()
	if watched {
		w.begin()
		w.noisy = w.noisy || !w.pinned
	}
}

// take reports whether all calls since it was last asked were watched, and were
// quiet.
func (w *watch) take() bool {
	quiet := w.calls > 0 && !w.noisy
	w.calls, w.noisy = 0, false
	return quiet
}

// unwatched is why memory is not watched on this machine, nil if it is.
var unwatched = sync.OnceValue(testFaults)

// testFaults holds that the system counts the faults of a thread as the watch
// needs it: that a write to a page of a private mapping is counted if the page
// was not the process's own before, whether it has been read or not, in a file's
// part and in one that has been opened later; also if the system itself writes.
func testFaults() error {
	const pages = 64
	mem := make([]byte, pages*osPage)
	for i := range mem {
		mem[i] = 1
	}
	im, err := newImage(mem)
	if err != nil {
		return err
	}
	defer im.close()
	m := (&allocator{limit: 2 * pages * uint64(osPage)}).Allocate(0, 1<<32).(*memory)
	defer m.Free()
	if m.Reallocate(2*pages*uint64(osPage)) == nil {
		return errors.New("memory cannot be opened")
	}
	if err := m.adopt(im); err != nil {
		return err
	}
	if !m.small {
		return errors.New("huge pages cannot be forbidden")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var w watch
	for i := range 2 * pages {
		p := m.base[i*osPage:][:osPage]
		if i%2 == 1 && p[7] > 1 { // reads it
			return errors.New("memory holds what nobody wrote")
		}
		before := w.faults()
		if i%3 == 0 {
			if _, err := unix.Pread(int(im.file.Fd()), p[:8], 0); err != nil {
				return err
			}
		} else {
			p[7]++
		}
		if after := w.faults(); before < 0 || after <= before {
			return errors.New("a first write to a page is not counted as a fault")
		}
	}
	return nil
}
