// A hook that calls what WASI preview 1 has, as a C library would, and refuses the
// request with the number of what was not as it should be; 200 if all was.
// build.sh compiles it to preview1.wasm, a core module.
#include "../../scaffold/files/c/sluice.h"

#define P1(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name))) uint32_t name
P1(args_sizes_get)(uint32_t *, uint32_t *);
P1(environ_sizes_get)(uint32_t *, uint32_t *);
P1(clock_time_get)(uint32_t, uint64_t, uint64_t *);
P1(random_get)(uint8_t *, uint32_t);
P1(fd_write)(uint32_t, const sluice_str *, uint32_t, uint32_t *);
P1(fd_read)(uint32_t, const sluice_str *, uint32_t, uint32_t *);
P1(fd_prestat_get)(uint32_t, void *);
P1(fd_fdstat_get)(uint32_t, void *);
P1(poll_oneoff)(const void *, void *, uint32_t, uint32_t *);

static int started;
__attribute__((export_name("_initialize"))) void initialize(void) { started = 1; }

#define CHECK(n, ok) if (!(ok)) return sluice_reject(400 + n)

SLUICE_ON_REQUEST(req) {
  static uint64_t t[3];
  static uint32_t n[4];
  static uint8_t a[20], b[20];
  CHECK(1, started);
  CHECK(2, args_sizes_get(n, n + 1) == 0 && n[0] == 0 && n[1] == 0);
  CHECK(3, environ_sizes_get(n, n + 1) == 0 && n[0] == 0 && n[1] == 0);

  t[1] = 0x0123456789abcdef, t[2] = 42; // must stay
  CHECK(4, clock_time_get(0, 0, t) == 0 && t[1] == 0x0123456789abcdef && t[2] == 42);
  CHECK(5, t[0] / 1000000 + 60000 > req->now_ms && t[0] / 1000000 < req->now_ms + 60000);
  uint64_t before = (clock_time_get(1, 0, t), t[0]);
  CHECK(6, clock_time_get(1, 0, t) == 0 && t[0] >= before);
  CHECK(7, clock_time_get(7, 0, t) == 28);

  CHECK(8, random_get(a, 19) == 0 && random_get(b, 19) == 0 && a[19] == 0 && b[19] == 0);
  uint32_t equal = 0;
  for (int i = 0; i < 19; i++) equal += a[i] == b[i];
  CHECK(9, equal < 19);

  n[1] = 1, n[2] = 2, n[3] = 3;
  sluice_str two[] = {SLUICE_S("hello "), SLUICE_S("there")};
  CHECK(10, fd_write(1, two, 2, n) == 0 && n[0] == 11 && n[1] == 1 && n[2] == 2 && n[3] == 3);
  CHECK(11, fd_write(3, two, 2, n) == 8);
  CHECK(12, fd_read(0, two, 1, n) == 0 && n[0] == 0);
  CHECK(13, fd_prestat_get(3, t) == 8 && fd_fdstat_get(1, t) == 0 && (uint8_t)t[0] == 2);

  static uint64_t sub[6], event[4]; // a clock that would ring later
  sub[0] = 77;
  CHECK(14, poll_oneoff(sub, event, 1, n) == 0 && n[0] == 1 && event[0] == 77 && (uint16_t)event[1] == 0);
  return sluice_reject(200);
}
