// What programs that were compiled for WASI preview 1 call, made of what
// WASI preview 2 has: clocks, chance, and two streams to write to. Of files,
// arguments and the environment there are none, as in the gateway.
//
// It has no memory of its own: everything is in the program's. Where a function
// of preview 2 needs room for its result, that of the caller's is taken, and put
// back. Nothing here may take the address of a local variable, or be a variable
// outside of functions: there is no stack and no data. wrap_test.go holds that.
//
// build.sh compiles it to adapter.wasm.
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define P1(name) __attribute__((export_name(#name))) uint32_t name

IMPORT("wasi:clocks/wall-clock@0.2.0", "now") void wall_now(void *datetime);
IMPORT("wasi:clocks/monotonic-clock@0.2.0", "now") uint64_t monotonic_now(void);
IMPORT("wasi:random/random@0.2.0", "get-random-u64") uint64_t random_u64(void);
IMPORT("wasi:cli/stdout@0.2.0", "get-stdout") uint32_t get_stdout(void);
IMPORT("wasi:cli/stderr@0.2.0", "get-stderr") uint32_t get_stderr(void);
IMPORT("wasi:io/streams@0.2.0", "[method]output-stream.blocking-write-and-flush") void stream_write(uint32_t stream, const void *p, uint32_t n, void *result);
IMPORT("wasi:io/streams@0.2.0", "[resource-drop]output-stream") void stream_drop(uint32_t stream);

enum { OK = 0, BADF = 8, INVAL = 28, IO = 29, NOTSUP = 58, SPIPE = 70 };

P1(args_sizes_get)(uint32_t *n, uint32_t *size) { *n = *size = 0; return OK; }
P1(args_get)(uint32_t *argv, uint8_t *buf) { return OK; }
P1(environ_sizes_get)(uint32_t *n, uint32_t *size) { *n = *size = 0; return OK; }
P1(environ_get)(uint32_t *env, uint8_t *buf) { return OK; }

P1(clock_res_get)(uint32_t id, uint64_t *res) { *res = 1; return OK; }

P1(clock_time_get)(uint32_t id, uint64_t precision, uint64_t *t) {
  if (id == 1) { *t = monotonic_now(); return OK; }
  if (id != 0) return INVAL;
  // A datetime is 16 bytes: what stands behind t is put back.
  volatile uint64_t *v = t;
  uint64_t behind = v[1];
  wall_now(t);
  uint64_t s = v[0];
  uint32_t ns = (uint32_t)v[1];
  v[1] = behind;
  v[0] = s * 1000000000u + ns;
  return OK;
}

P1(random_get)(uint8_t *p, uint32_t n) {
  while (n) {
    uint64_t r = random_u64();
    for (uint32_t i = 0; i < 8 && n; i++, n--) { *p++ = (uint8_t)r; r >>= 8; }
  }
  return OK;
}

typedef struct { const uint8_t *p; uint32_t n; } iovec;

P1(fd_write)(uint32_t fd, const iovec *iov, uint32_t n, uint32_t *written) {
  if (fd != 1 && fd != 2) return BADF;
  uint32_t stream = fd == 1 ? get_stdout() : get_stderr();
  uint32_t total = 0, err = OK;
  // A result is 12 bytes: those from written on are put back.
  volatile uint32_t *v = written;
  uint32_t a = v[0], b = v[1], c = v[2];
  for (uint32_t i = 0; i < n && !err; i++) {
    const uint8_t *p = iov[i].p;
    uint32_t left = iov[i].n;
    while (left && !err) {
      uint32_t k = left < 4096 ? left : 4096; // preview 2 takes no more at once
      stream_write(stream, p, k, written);
      err = *(volatile uint8_t *)written ? IO : OK;
      v[0] = a; v[1] = b; v[2] = c;
      p += k; left -= k; total += k;
    }
  }
  stream_drop(stream);
  v[0] = total;
  return err;
}

P1(fd_read)(uint32_t fd, const iovec *iov, uint32_t n, uint32_t *read) {
  if (fd != 0) return BADF;
  *read = 0;
  return OK;
}

P1(fd_fdstat_get)(uint32_t fd, uint64_t *stat) {
  if (fd > 2) return BADF;
  stat[0] = 2; // a character device
  stat[1] = stat[2] = ~0ull;
  return OK;
}

P1(fd_fdstat_set_flags)(uint32_t fd, uint32_t flags) { return fd > 2 ? BADF : OK; }
P1(fd_close)(uint32_t fd) { return fd > 2 ? BADF : OK; }
P1(fd_seek)(uint32_t fd, int64_t offset, uint32_t whence, uint64_t *at) { return fd > 2 ? BADF : SPIPE; }
P1(fd_tell)(uint32_t fd, uint64_t *at) { return fd > 2 ? BADF : SPIPE; }
P1(fd_sync)(uint32_t fd) { return fd > 2 ? BADF : OK; }
P1(fd_datasync)(uint32_t fd) { return fd > 2 ? BADF : OK; }
P1(fd_prestat_get)(uint32_t fd, void *prestat) { return BADF; }
P1(fd_prestat_dir_name)(uint32_t fd, uint8_t *path, uint32_t n) { return BADF; }
P1(fd_filestat_get)(uint32_t fd, void *stat) { return BADF; }
P1(fd_pread)(uint32_t fd, const iovec *iov, uint32_t n, uint64_t offset, uint32_t *read) { return BADF; }
P1(fd_pwrite)(uint32_t fd, const iovec *iov, uint32_t n, uint64_t offset, uint32_t *written) { return BADF; }
P1(fd_readdir)(uint32_t fd, uint8_t *buf, uint32_t n, uint64_t cookie, uint32_t *used) { return BADF; }
P1(fd_filestat_set_size)(uint32_t fd, uint64_t size) { return BADF; }
P1(path_open)(uint32_t fd, uint32_t dirflags, const uint8_t *path, uint32_t n, uint32_t oflags, uint64_t rights, uint64_t inherit, uint32_t fdflags, uint32_t *opened) { return BADF; }
P1(path_filestat_get)(uint32_t fd, uint32_t flags, const uint8_t *path, uint32_t n, void *stat) { return BADF; }
P1(path_create_directory)(uint32_t fd, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_remove_directory)(uint32_t fd, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_unlink_file)(uint32_t fd, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_rename)(uint32_t fd, const uint8_t *old, uint32_t nold, uint32_t to, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_readlink)(uint32_t fd, const uint8_t *path, uint32_t n, uint8_t *buf, uint32_t nbuf, uint32_t *used) { return BADF; }
P1(path_symlink)(const uint8_t *old, uint32_t nold, uint32_t fd, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_link)(uint32_t fd, uint32_t flags, const uint8_t *old, uint32_t nold, uint32_t to, const uint8_t *path, uint32_t n) { return BADF; }
P1(path_filestat_set_times)(uint32_t fd, uint32_t flags, const uint8_t *path, uint32_t n, uint64_t atim, uint64_t mtim, uint32_t fst) { return BADF; }
P1(sock_accept)(uint32_t fd, uint32_t flags, uint32_t *opened) { return BADF; }
P1(sock_recv)(uint32_t fd, const iovec *iov, uint32_t n, uint32_t flags, uint32_t *read, uint32_t *oflags) { return BADF; }
P1(sock_send)(uint32_t fd, const iovec *iov, uint32_t n, uint32_t flags, uint32_t *written) { return BADF; }
P1(sock_shutdown)(uint32_t fd, uint32_t how) { return BADF; }
P1(sched_yield)(void) { return OK; }

typedef struct { uint64_t userdata; uint8_t tag; uint8_t pad[7]; uint64_t rest[4]; } subscription;
typedef struct { uint64_t userdata; uint16_t error; uint8_t type; uint8_t pad[5]; uint64_t rest[2]; } event;

// Everything is ready at once: who waits for a clock asks again.
P1(poll_oneoff)(const subscription *in, event *out, uint32_t n, uint32_t *events) {
  if (!n) return INVAL;
  for (uint32_t i = 0; i < n; i++) {
    out[i].userdata = in[i].userdata;
    out[i].type = in[i].tag;
    out[i].error = OK;
    out[i].rest[0] = out[i].rest[1] = 0;
  }
  *events = n;
  return OK;
}

__attribute__((export_name("proc_exit"))) void proc_exit(uint32_t status) { __builtin_trap(); }
