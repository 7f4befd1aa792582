package wasm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// A memory is a guest's linear memory: address space for as much as it may ever
// have, of which the beginning is an image, mapped so that what is written is
// the instance's own.
type memory struct {
	base  []byte        // all of the reservation
	limit uint64        // bytes that the guest may have
	open  uint64        // bytes that can be read and written
	high  atomic.Uint64 // bytes that it may take of the machine, for those who only look
	size  uint64        // bytes that the guest has
	image *image        // nil until it is adopted
	grew  bool          // since the last reset
	back  bool          // Reallocate is to return the image's length
	owner *instance     // whose it is; nil until it is adopted
	small bool          // its pages may only be made one by one

	copied uint64 // by copyBack in this reset, since others last ran

	own   []pageRegion // the process's own instead of the image's file's: all that are, if known
	known bool
}

// Reallocate implements experimental.LinearMemory. It only opens more of what is
// reserved. While a memory is put back it tells the engine the length that it
// had: that is how a memory shrinks.
func (m *memory) Reallocate(size uint64) []byte {
	if m.back {
		return m.base[:m.image.size:m.image.size]
	}
	if size > m.limit {
		return nil
	}
	if size > m.open {
		if err := unix.Mprotect(m.base[:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil
		}
		m.open = size
	}
	if size > m.high.Load() {
		m.high.Store(size)
	}
	m.size, m.grew = size, true
	return m.base[:size:size]
}

// Free implements experimental.LinearMemory.
func (m *memory) Free() {
	if m.base != nil {
		_ = m.release(0, m.high.Load()) // else unmapping does it at once; it fails in no other way
		_ = unix.Munmap(m.base)
		m.base = nil
	}
}

// An allocator makes memories, and remembers which.
type allocator struct {
	limit uint64
	made  []*memory
	err   error
}

// Allocate implements experimental.MemoryAllocator.
func (a *allocator) Allocate(_, most uint64) experimental.LinearMemory {
	// A page more than the limit, which the engine asks for when it grows a
	// memory that is being put back.
	limit := min(most-min(most, pageSize), a.limit)
	n := limit + pageSize
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		a.err = fmt.Errorf("reserving memory: %w", err)
		panic(a.err)
	}
	m := &memory{base: b, limit: limit, small: forbidHuge(b)}
	a.made = append(a.made, m)
	return m
}

// forbidHuge keeps the system from making huge pages of b, and reports whether
// there will be none. A kernel that has none does not know the advice.
func forbidHuge(b []byte) bool {
	err := unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	return err == nil || errors.Is(err, unix.EINVAL)
}

// An image is what a memory holds in the snapshot. All instances share it.
type image struct {
	file *os.File
	size uint64
	view []byte
	runs []run  // all of it
	cost uint64 // of putting all of it back, in bytes that are copied
}

// A run is a part of an image that is zeros, or is not. Clearing takes half the
// time of copying.
type run struct {
	from, to uint64
	zero     bool
}

// newImage keeps a copy of mem. Pages of zeros take no memory.
func newImage(mem []byte) (*image, error) {
	im := &image{size: uint64(len(mem))}
	if len(mem) == 0 {
		return im, nil
	}
	fd, err := unix.MemfdCreate("sluice-wasm", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	im.file = os.NewFile(uintptr(fd), "image")
	if err := im.fill(mem); err != nil {
		im.close()
		return nil, fmt.Errorf("making an image: %w", err)
	}
	return im, nil
}

func (im *image) fill(mem []byte) (err error) {
	if err := im.file.Truncate(int64(len(mem))); err != nil {
		return err
	}
	for at := 0; at < len(mem); at += osPage {
		p := mem[at:min(at+osPage, len(mem))]
		blank := zero(p)
		if n := len(im.runs); n > 0 && im.runs[n-1].zero == blank {
			im.runs[n-1].to += uint64(len(p))
		} else {
			im.runs = append(im.runs, run{uint64(at), uint64(at + len(p)), blank})
		}
		if blank {
			im.cost += uint64(len(p)) / 2
			continue
		}
		im.cost += uint64(len(p))
		if _, err := im.file.WriteAt(p, int64(at)); err != nil {
			return err
		}
	}
	im.view, err = unix.Mmap(int(im.file.Fd()), 0, len(mem), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	return err
}

func (im *image) close() {
	if im.view != nil {
		_ = unix.Munmap(im.view)
	}
	if im.file != nil {
		im.file.Close()
	}
}

var osPage = os.Getpagesize()

func zero(p []byte) bool {
	for len(p) >= 8 {
		if *(*uint64)(unsafe.Pointer(&p[0])) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// adopt makes im the beginning of m.
func (m *memory) adopt(im *image) error {
	m.image, m.grew = im, m.size != im.size
	m.own, m.known = m.own[:0], false
	if im.size == 0 {
		return nil
	}
	if im.size > m.open {
		return fmt.Errorf("an image of %d bytes for a memory of %d", im.size, m.open)
	}
	_, err := unix.MmapPtr(int(im.file.Fd()), 0, unsafe.Pointer(&m.base[0]), uintptr(im.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
	if err != nil {
		return fmt.Errorf("mapping an image: %w", err)
	}
	m.small = m.small && forbidHuge(m.base[:im.size])
	return nil
}

// copyAlways is what copying may cost for a memory to be put back as a whole,
// whatever is known of it: asking how many faults there were costs as much.
const copyAlways = 40 << 10

// watches has in watched if that is of use.
func (in *instance) watches() {
	in.watch.on = false
	for _, m := range in.memories {
		m.owner = in
		if m.image.cost > copyAlways && m.small && unwatched() == nil && pagemap() != nil {
			in.watch.on = true
		}
	}
}

// copyUpTo is what copying may cost for a memory to be put back as a whole; of a
// larger one the pages are looked for that were written to.
const copyUpTo = 128 << 10

// keepTail is how much of what a memory grew by stays the process's own when it
// is put back: most guests grow by little, at each call. What is beyond goes
// back to the system.
const keepTail = 512 << 10

// shrink begins to make m as short as its image: until shrunk, whatever length
// the engine asks for, it is told that one.
func (m *memory) shrink() { m.back = true }
func (m *memory) shrunk() { m.back, m.grew = false, false }

// reset makes m hold what its image holds. Its length is the image's. quiet says
// that no page has become the process's own since the last reset.
func (m *memory) reset(quiet bool) error {
	dirty := max(m.size, m.image.size)
	m.size, m.copied = m.image.size, 0
	if most := m.image.size + keepTail; dirty > most {
		if err := m.release(most, dirty); err != nil {
			return err
		}
		dirty = most
		m.high.Store(most)
	}
	if !quiet {
		m.known = false // also if it is put back as a whole now: the next call may be quiet and longer
	}
	cost := m.image.cost + (dirty-m.image.size)/2
	switch {
	case cost <= copyAlways:
		m.putBack(dirty)
		return nil
	case quiet && m.known && m.small:
		for _, r := range m.own {
			m.copyBack(r.start, r.end)
		}
		return nil
	case cost <= copyUpTo && !(m.owner.watch.on && m.small):
		m.putBack(dirty)
		return nil
	}
	// All that it may have written since it has its image: what is the process's
	// own stays that, and has to be known also while the memory is shorter.
	return m.restore(max(min(m.high.Load(), m.image.size+keepTail), m.image.size))
}

// piece is how much memory is given back to the system at once, which takes it
// 0.2 ms. Others run in between.
const piece = 4 << 20

// excess is how much of the memory reset, or Free, gives back to the system.
func (m *memory) excess() uint64 {
	stays := uint64(0)
	if m.image != nil {
		stays = m.image.size + keepTail
	}
	return max(m.size, stays) - stays
}

// release gives what is between two addresses back to the system.
func (m *memory) release(from, to uint64) error {
	for ; from < to; from += piece {
		if err := unix.Madvise(m.base[from:min(from+piece, to)], unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("giving memory back: %w", err)
		}
		if from+piece < to && m.owner != nil {
			m.owner.watch.rest()
		}
	}
	return nil
}

// putBack puts back the first n bytes, at least as many as the image has.
func (m *memory) putBack(n uint64) {
	for _, r := range m.image.runs {
		if r.zero {
			clear(m.base[r.from:r.to])
		} else {
			copy(m.base[r.from:r.to], m.image.view[r.from:r.to])
		}
	}
	clear(m.base[m.image.size:n])
}

// pageRegion and scanArg are those of PAGEMAP_SCAN, linux/fs.h; Linux 6.7 has it.
type pageRegion struct{ start, end, categories uint64 }

type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages       uint64
	categoryInverted, categoryMask, categoryAnyofMask, returnMask uint64
}

const (
	pagemapScan = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pageIsFile  = 1 << 2
	pagePresent = 1 << 3
	pageSwapped = 1 << 4
)

// A scanner finds pages that were written to. It is a goroutine's own while it
// is used.
type scanner struct {
	arg scanArg
	vec [128]pageRegion
	buf []uint64
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// pagemap is the file that tells of the process's pages; nil if there is none.
var pagemap = sync.OnceValue(func() *os.File {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil
	}
	return f
})

// restore puts back the pages of the first n bytes that were written to: those
// that are the process's own instead of the image's file's. It notes which they
// are.
func (m *memory) restore(n uint64) error {
	m.own, m.known = m.own[:0], false
	f := pagemap()
	if f == nil {
		m.putBack(n)
		return nil
	}
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	fd := int(f.Fd())
	if !noScan {
		err := m.scan(s, fd, n)
		if err == nil {
			m.known = len(m.own) < maxOwn
			return nil
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
			return fmt.Errorf("looking for written pages: %w", err)
		}
	}
	return m.readPagemap(s, f, n)
}

// maxOwn is of how many pieces of a memory it is noted that they are the
// process's own. Who writes here and there has what it wrote looked for.
const maxOwn = 512

// found puts back what is between two addresses, and notes it as the process's
// own.
func (m *memory) found(from, to uint64) {
	m.copyBack(from, to)
	if len(m.own) < maxOwn {
		m.own = append(m.own, pageRegion{start: from, end: to})
	}
}

// copyBack puts back what is between two addresses. Others run in between if that
// is much, or becomes much.
func (m *memory) copyBack(from, to uint64) {
	for from < to {
		k := min(from+copyPiece, to)
		if from < m.image.size {
			k = min(k, m.image.size)
			copy(m.base[from:k], m.image.view[from:k])
		} else {
			clear(m.base[from:k])
		}
		if m.copied += k - from; m.copied >= copyPiece {
			m.copied = 0
			m.owner.watch.rest()
		}
		from = k
	}
}

// copyPiece is how much of memory is put back at once, which takes some 0.1 ms.
const copyPiece = 1 << 20

// noScan is set by tests.
var noScan bool

func (m *memory) scan(s *scanner, fd int, n uint64) error {
	base := uint64(uintptr(unsafe.Pointer(&m.base[0])))
	for start, end := base, base+n; start < end; {
		s.arg = scanArg{
			size: uint64(unsafe.Sizeof(s.arg)), start: start, end: end,
			vec: uint64(uintptr(unsafe.Pointer(&s.vec[0]))), vecLen: uint64(len(s.vec)),
			categoryInverted: pageIsFile, categoryMask: pageIsFile, categoryAnyofMask: pagePresent | pageSwapped, returnMask: pageIsFile,
		}
		k, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(&s.arg)))
		if e != 0 {
			return e
		}
		for _, r := range s.vec[:k] {
			m.found(r.start-base, r.end-base)
		}
		start = s.arg.walkEnd
	}
	return nil
}

// readPagemap does what scan does on older kernels: bit 61 of an entry says that
// the page is a file's, bits 62 and 63 that there is one (admin-guide/mm/pagemap).
func (m *memory) readPagemap(s *scanner, f *os.File, n uint64) error {
	pages := int((n + uint64(osPage) - 1) / uint64(osPage))
	if cap(s.buf) < pages {
		s.buf = make([]uint64, pages)
	}
	buf := s.buf[:pages]
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), pages*8)
	base := uint64(uintptr(unsafe.Pointer(&m.base[0])))
	if _, err := f.ReadAt(raw, int64(base/uint64(osPage)*8)); err != nil {
		m.putBack(n)
		return nil
	}
	for i, e := range buf {
		if e>>62 != 0 && e&(1<<61) == 0 {
			m.found(uint64(i*osPage), min(uint64((i+1)*osPage), n))
		}
	}
	m.known = len(m.own) < maxOwn
	return nil
}
