package httpwasm

import (
	cryptorand "crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// wasiModule is what guests import the functions of their world outside from.
const wasiModule = "wasi_snapshot_preview1"

// An ExitError is a guest that has ended itself.
type ExitError struct{ Status uint32 }

func (e *ExitError) Error() string {
	return fmt.Sprintf("it ended itself with exit status %d", e.Status)
}

// Error numbers of WASI.
const (
	errnoBadFD  = 8
	errnoInval  = 28
	errnoNoSys  = 52
	errnoNoPipe = 70 // it is one, and cannot be moved in
)

// wasi is WASI preview 1 with nothing in it. Of most functions no call can be of
// any use, because it takes a file, and there is none; guests' tools link them
// all the same.
var wasi = map[string]function{
	"args_get":                {"ii>i", empty},
	"args_sizes_get":          {"ii>i", noneOfThem},
	"environ_get":             {"ii>i", empty},
	"environ_sizes_get":       {"ii>i", noneOfThem},
	"clock_res_get":           {"ii>i", clockResolution},
	"clock_time_get":          {"iIi>i", clockTime},
	"fd_advise":               {"iIIi>i", noFile},
	"fd_allocate":             {"iII>i", noFile},
	"fd_close":                {"i>i", noFile},
	"fd_datasync":             {"i>i", noFile},
	"fd_fdstat_get":           {"ii>i", streamStat},
	"fd_fdstat_set_flags":     {"ii>i", ofStream},
	"fd_fdstat_set_rights":    {"iII>i", noFile},
	"fd_filestat_get":         {"ii>i", noFile},
	"fd_filestat_set_size":    {"iI>i", noFile},
	"fd_filestat_set_times":   {"iIIi>i", noFile},
	"fd_pread":                {"iiiIi>i", noFile},
	"fd_prestat_get":          {"ii>i", noFile},
	"fd_prestat_dir_name":     {"iii>i", noFile},
	"fd_pwrite":               {"iiiIi>i", noFile},
	"fd_read":                 {"iiii>i", readStream},
	"fd_readdir":              {"iiiIi>i", noFile},
	"fd_renumber":             {"ii>i", noFile},
	"fd_seek":                 {"iIii>i", notMoved},
	"fd_sync":                 {"i>i", noFile},
	"fd_tell":                 {"ii>i", notMoved},
	"fd_write":                {"iiii>i", writeStream},
	"path_create_directory":   {"iii>i", noFile},
	"path_filestat_get":       {"iiiii>i", noFile},
	"path_filestat_set_times": {"iiiiIIi>i", noFile},
	"path_link":               {"iiiiiii>i", noFile},
	"path_open":               {"iiiiiIIii>i", noFile},
	"path_readlink":           {"iiiiii>i", noFile},
	"path_remove_directory":   {"iii>i", noFile},
	"path_rename":             {"iiiiii>i", noFile},
	"path_symlink":            {"iiiii>i", noFile},
	"path_unlink_file":        {"iii>i", noFile},
	"poll_oneoff":             {"iiii>i", poll},
	"proc_exit":               {"i>", func(_ *Exchange, _ api.Memory, st []uint64) error { return &ExitError{uint32(st[0])} }},
	"proc_raise":              {"i>i", unknown},
	"random_get":              {"ii>i", random},
	"sched_yield":             {">i", empty},
	"sock_accept":             {"iii>i", noFile},
	"sock_recv":               {"iiiiii>i", noFile},
	"sock_send":               {"iiiii>i", noFile},
	"sock_shutdown":           {"ii>i", noFile},
}

// answer makes errno the result; 0 is none.
func answer(st []uint64, errno uint64) error {
	st[0] = errno
	return nil
}

func empty(_ *Exchange, _ api.Memory, st []uint64) error   { return answer(st, 0) }
func noFile(_ *Exchange, _ api.Memory, st []uint64) error  { return answer(st, errnoBadFD) }
func unknown(_ *Exchange, _ api.Memory, st []uint64) error { return answer(st, errnoNoSys) }

// u32 and u64 write a number at an address.
func u32(mem api.Memory, at uint64, v uint32) error {
	b, err := take(mem, at, 4)
	if err == nil {
		binary.LittleEndian.PutUint32(b, v)
	}
	return err
}

func u64(mem api.Memory, at, v uint64) error {
	b, err := take(mem, at, 8)
	if err == nil {
		binary.LittleEndian.PutUint64(b, v)
	}
	return err
}

// noneOfThem says that there are no arguments, or variables.
func noneOfThem(_ *Exchange, mem api.Memory, st []uint64) error {
	err := u32(mem, st[0], 0)
	if err == nil {
		err = u32(mem, st[1], 0)
	}
	st[0] = 0
	return err
}

// The clocks. Others are of a processor's time, which a guest is not told.
const (
	realtime = iota
	monotonic
)

var started = time.Now()

func clockResolution(_ *Exchange, mem api.Memory, st []uint64) error {
	if uint32(st[0]) > monotonic {
		return answer(st, errnoInval)
	}
	err := u64(mem, st[1], 1)
	st[0] = 0
	return err
}

func clockTime(_ *Exchange, mem api.Memory, st []uint64) error {
	var now uint64
	switch uint32(st[0]) {
	case realtime:
		now = uint64(time.Now().UnixNano())
	case monotonic:
		now = uint64(time.Since(started))
	default:
		return answer(st, errnoInval)
	}
	err := u64(mem, st[2], now)
	st[0] = 0
	return err
}

// isStream reports whether a file is one of the three that there are.
func isStream(fd uint64) bool { return uint32(fd) <= 2 }

// ofStream does nothing, to a stream.
func ofStream(_ *Exchange, _ api.Memory, st []uint64) error {
	if !isStream(st[0]) {
		return answer(st, errnoBadFD)
	}
	return answer(st, 0)
}

func notMoved(_ *Exchange, _ api.Memory, st []uint64) error {
	if !isStream(st[0]) {
		return answer(st, errnoBadFD)
	}
	return answer(st, errnoNoPipe)
}

// streamStat says that a stream is a terminal that nothing more may be done to
// than is done to it.
func streamStat(_ *Exchange, mem api.Memory, st []uint64) error {
	if !isStream(st[0]) {
		return answer(st, errnoBadFD)
	}
	b, err := take(mem, st[1], 24)
	if err == nil {
		clear(b)
		b[0] = 2                                        // a character device
		binary.LittleEndian.PutUint64(b[8:], 1<<1|1<<6) // it may be read and written
	}
	st[0] = 0
	return err
}

// maxPieces bounds the pieces of memory that one call is about.
const maxPieces = 1 << 10

// readStream says that nothing is left to read.
func readStream(_ *Exchange, mem api.Memory, st []uint64) error {
	if uint32(st[0]) != 0 {
		return answer(st, errnoBadFD)
	}
	err := u32(mem, st[3], 0)
	st[0] = 0
	return err
}

// writeStream takes what a guest writes.
func writeStream(x *Exchange, mem api.Memory, st []uint64) error {
	if fd := uint32(st[0]); fd != 1 && fd != 2 {
		return answer(st, errnoBadFD)
	}
	n := uint64(uint32(st[2]))
	if n > maxPieces {
		return answer(st, errnoInval)
	}
	list, err := take(mem, st[1], 8*n)
	if err != nil {
		return err
	}
	total := uint32(0)
	for ; len(list) > 0; list = list[8:] {
		b, err := take(mem, uint64(binary.LittleEndian.Uint32(list)), uint64(binary.LittleEndian.Uint32(list[4:])))
		if err != nil {
			return err
		}
		x.Host.Works(perField)
		x.Host.Print(b)
		total += uint32(len(b))
	}
	err = u32(mem, st[3], total)
	st[0] = 0
	return err
}

// poll says that everything is ready: nothing that a guest can wait for takes
// time.
func poll(x *Exchange, mem api.Memory, st []uint64) error {
	const subscription, event = 48, 32 // bytes
	n := uint64(uint32(st[2]))
	if n == 0 || n > maxPieces {
		return answer(st, errnoInval)
	}
	x.Host.Works(int(n) * subscription)
	from, err := take(mem, st[0], n*subscription)
	if err != nil {
		return err
	}
	to, err := take(mem, st[1], n*event)
	if err != nil {
		return err
	}
	for i := range n {
		s, e := from[i*subscription:], to[i*event:i*event+event]
		data, tag := binary.LittleEndian.Uint64(s), s[8]
		clear(e)
		binary.LittleEndian.PutUint64(e, data)
		e[10] = tag
	}
	err = u32(mem, st[3], uint32(n))
	st[0] = 0
	return err
}

// maxRandom is how many random bytes a guest may have at once, and randomWork is how
// much work one is.
const (
	maxRandom  = 64 << 10
	randomWork = 4
)

func random(x *Exchange, mem api.Memory, st []uint64) error {
	if n := uint32(st[1]); n > maxRandom {
		return fmt.Errorf("it wants %d random bytes at once; at most %d are given", n, maxRandom)
	}
	b, err := take(mem, st[0], st[1])
	if err == nil {
		x.Host.Works(len(b) * randomWork)
		_, err = cryptorand.Read(b)
	}
	st[0] = 0
	return err
}
