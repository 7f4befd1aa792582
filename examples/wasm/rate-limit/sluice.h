/* What a module for sluice needs: the values of sluice:gateway@0.1.0, its hooks
 * as macros, and what the gateway does for a module. No C library is needed.
 * Written by `sluice wasm new`; there is no need to change it.
 *
 *   #include "sluice.h"
 *
 *   SLUICE_ON_REQUEST(req) {
 *     if (!sluice_header(req->headers, "x-api-key").n) return sluice_reject(401);
 *     return sluice_continue();
 *   }
 *
 * Memory of sluice_alloc, and all that a hook is given, is good until the hook's
 * answer has been read. */
#ifndef SLUICE_H
#define SLUICE_H
#include <stddef.h>
#include <stdint.h>

typedef struct { const char *p; uint32_t n; } sluice_str; /* UTF-8, or bytes; not ended by 0 */
typedef struct { sluice_str name, value; } sluice_field;
typedef struct { const sluice_field *p; uint32_t n; } sluice_fields;

typedef struct {
  sluice_str method, path, query;
  sluice_fields headers;
  sluice_str body, id;
  uint64_t now_ms;
} sluice_request;

typedef struct { uint16_t status; sluice_fields headers; sluice_str body; } sluice_response;
typedef struct { uint16_t status; sluice_str code, message; } sluice_failure;
typedef struct { uint16_t status; uint64_t duration_ms, input_tokens, output_tokens; } sluice_summary;

/* What becomes of a request or an answer. Changes are made in this order:
 * remove, set, add, body. A status is of answers only. */
typedef struct {
  uint8_t kind; /* 0 continue, 1 reject, 2 modify */
  uint8_t _a[3];
  union {
    uint16_t reject;
    struct {
      uint8_t has_status, _b;
      uint16_t status;
      sluice_fields set, add;
      struct { const sluice_str *p; uint32_t n; } remove;
      uint8_t has_body, _c[3];
      sluice_str body;
    } modify;
  };
} sluice_action;
_Static_assert(sizeof(sluice_action) == 44, "the layout of an action");

/* What becomes of an event of a streamed answer. */
typedef struct { uint32_t kind; sluice_str data; } sluice_chunk;
enum { SLUICE_PASS, SLUICE_DROP, SLUICE_REPLACE, SLUICE_FINISH };

static inline sluice_action sluice_continue(void) { return (sluice_action){.kind = 0}; }
static inline sluice_action sluice_reject(uint16_t status) { return (sluice_action){.kind = 1, .reject = status}; }
static inline sluice_action sluice_modify(void) { return (sluice_action){.kind = 2}; }
static inline sluice_chunk sluice_pass(void) { return (sluice_chunk){.kind = SLUICE_PASS}; }
static inline sluice_chunk sluice_drop(void) { return (sluice_chunk){.kind = SLUICE_DROP}; }
static inline sluice_chunk sluice_replace(sluice_str s) { return (sluice_chunk){SLUICE_REPLACE, s}; }
static inline sluice_chunk sluice_finish(sluice_str s) { return (sluice_chunk){SLUICE_FINISH, s}; }

/* What the gateway does for a module; sluice-gateway.wit says it in full. */
#define SLUICE_HOST(name) __attribute__((import_module("sluice:gateway/host@0.1.0"), import_name(name)))
enum { SLUICE_DEBUG, SLUICE_INFO, SLUICE_WARN, SLUICE_ERROR };
SLUICE_HOST("log") void sluice_log_(uint32_t level, const char *p, uint32_t n);
SLUICE_HOST("count") void sluice_count_(const char *p, uint32_t n, uint64_t by);
SLUICE_HOST("model") void sluice_model_(sluice_str *r);
SLUICE_HOST("state") void sluice_state_(sluice_str *r);
SLUICE_HOST("set-state") uint32_t sluice_set_state_(const char *p, uint32_t n);
SLUICE_HOST("add") int64_t sluice_add_(const char *p, uint32_t n, int64_t by, uint64_t ttl_ms);
SLUICE_HOST("get") int64_t sluice_get_(const char *p, uint32_t n);
static inline void sluice_log(uint32_t level, sluice_str s) { sluice_log_(level, s.p, s.n); }
static inline void sluice_count(sluice_str name, uint64_t by) { sluice_count_(name.p, name.n, by); }
static inline sluice_str sluice_model(void) { sluice_str s = {0}; sluice_model_(&s); return s; }
static inline sluice_str sluice_state(void) { sluice_str s = {0}; sluice_state_(&s); return s; }
static inline int sluice_set_state(sluice_str s) { return sluice_set_state_(s.p, s.n); }
static inline int64_t sluice_add(sluice_str key, int64_t by, uint64_t ttl_ms) { return sluice_add_(key.p, key.n, by, ttl_ms); }
static inline int64_t sluice_get(sluice_str key) { return sluice_get_(key.p, key.n); }

/* Memory: one piece after the other from where the program's own ends. */
extern unsigned char __heap_base;
static uint32_t sluice_used;
static inline void *sluice_alloc(uint32_t n) {
  uint64_t at = sluice_used ? sluice_used : (uint32_t)(uintptr_t)&__heap_base;
  at = (at + 7) & ~7ull;
  uint64_t end = at + n, have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
  if (end > have && (end > UINT32_MAX || __builtin_wasm_memory_grow(0, (end - have + 65535) >> 16) == (size_t)-1)) __builtin_trap();
  sluice_used = (uint32_t)end;
  return (void *)(uintptr_t)at;
}
static inline void sluice_done_(void) { sluice_used = 0; }
__attribute__((export_name("cabi_realloc"))) void *sluice_realloc_(const char *old, uint32_t had, uint32_t align, uint32_t n) {
  if (!n) return (void *)(uintptr_t)align;
  char *p = sluice_alloc(n);
  for (uint32_t i = 0; i < had && i < n; i++) p[i] = old[i];
  return p;
}

/* Texts. */
#define SLUICE_S(literal) ((sluice_str){(literal), sizeof(literal) - 1})
static inline int sluice_equal(sluice_str a, sluice_str b) {
  if (a.n != b.n) return 0;
  for (uint32_t i = 0; i < a.n; i++)
    if (a.p[i] != b.p[i]) return 0;
  return 1;
}
static inline int sluice_begins(sluice_str s, sluice_str with) { return s.n >= with.n && sluice_equal((sluice_str){s.p, with.n}, with); }
/* Texts one after the other, in new memory. */
static inline sluice_str sluice_join(const sluice_str *parts, uint32_t n) {
  uint32_t all = 0, k = 0;
  for (uint32_t i = 0; i < n; i++) all += parts[i].n;
  char *p = sluice_alloc(all ? all : 1);
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t j = 0; j < parts[i].n; j++) p[k++] = parts[i].p[j];
  return (sluice_str){p, all};
}
#define SLUICE_JOIN(...) sluice_join((const sluice_str[]){__VA_ARGS__}, sizeof((const sluice_str[]){__VA_ARGS__}) / sizeof(sluice_str))
/* s with to in the place of each from, in new memory; s itself if it has none. */
static inline sluice_str sluice_swap(sluice_str s, sluice_str from, sluice_str to) {
  uint32_t n = 0, k = 0;
  for (uint32_t i = 0; from.n && i + from.n <= s.n;)
    if (sluice_begins((sluice_str){s.p + i, s.n - i}, from)) n++, i += from.n;
    else i++;
  if (!n) return s;
  uint64_t all = s.n - (uint64_t)n * from.n + (uint64_t)n * to.n;
  if (all > UINT32_MAX) __builtin_trap();
  char *p = sluice_alloc(all ? (uint32_t)all : 1);
  for (uint32_t i = 0; i < s.n;)
    if (sluice_begins((sluice_str){s.p + i, s.n - i}, from)) {
      for (uint32_t j = 0; j < to.n; j++) p[k++] = to.p[j];
      i += from.n;
    } else p[k++] = s.p[i++];
  return (sluice_str){p, k};
}
static inline sluice_str sluice_number(uint64_t v) {
  char *p = sluice_alloc(20);
  uint32_t k = 20;
  do p[--k] = (char)('0' + v % 10); while (v /= 10);
  return (sluice_str){p + k, 20 - k};
}
/* The first value of a header field, by its name in lower case; n is 0 if there is none. */
static inline sluice_str sluice_header_(sluice_fields h, sluice_str name) {
  for (uint32_t i = 0; i < h.n; i++) {
    sluice_str s = h.p[i].name;
    uint32_t k = 0;
    if (s.n != name.n) continue;
    for (; k < s.n; k++) {
      char c = s.p[k];
      if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != name.p[k]) break;
    }
    if (k == s.n) return h.p[i].value;
  }
  return (sluice_str){0, 0};
}
#define sluice_header(headers, name) sluice_header_((headers), SLUICE_S(name))

/* The hooks. A module is called at those that it has. */
#define SLUICE_EXPORT(name) __attribute__((export_name(name)))
#define SLUICE_ON_REQUEST(req) \
  static sluice_action sluice_on_request_(const sluice_request *); \
  SLUICE_EXPORT("sluice:gateway/on-request@0.1.0#on-request") \
  sluice_action *sluice_on_request_export_(const char *mp, uint32_t mn, const char *pp, uint32_t pn, const char *qp, uint32_t qn, \
      const sluice_field *hp, uint32_t hn, const char *bp, uint32_t bn, const char *ip, uint32_t in, uint64_t now) { \
    sluice_request r = {{mp, mn}, {pp, pn}, {qp, qn}, {hp, hn}, {bp, bn}, {ip, in}, now}; \
    sluice_action *a = sluice_alloc(sizeof *a); \
    *a = sluice_on_request_(&r); \
    return a; \
  } \
  SLUICE_EXPORT("cabi_post_sluice:gateway/on-request@0.1.0#on-request") void sluice_on_request_done_(void *a) { (void)a; sluice_done_(); } \
  static sluice_action sluice_on_request_(const sluice_request *req)

#define SLUICE_ON_RESPONSE(resp) \
  static sluice_action sluice_on_response_(const sluice_response *); \
  SLUICE_EXPORT("sluice:gateway/on-response@0.1.0#on-response") \
  sluice_action *sluice_on_response_export_(uint32_t status, const sluice_field *hp, uint32_t hn, const char *bp, uint32_t bn) { \
    sluice_response r = {(uint16_t)status, {hp, hn}, {bp, bn}}; \
    sluice_action *a = sluice_alloc(sizeof *a); \
    *a = sluice_on_response_(&r); \
    return a; \
  } \
  SLUICE_EXPORT("cabi_post_sluice:gateway/on-response@0.1.0#on-response") void sluice_on_response_done_(void *a) { (void)a; sluice_done_(); } \
  static sluice_action sluice_on_response_(const sluice_response *resp)

#define SLUICE_ON_CHUNK(event) \
  static sluice_chunk sluice_on_chunk_(sluice_str); \
  SLUICE_EXPORT("sluice:gateway/on-chunk@0.1.0#on-chunk") sluice_chunk *sluice_on_chunk_export_(const char *p, uint32_t n) { \
    sluice_chunk *c = sluice_alloc(sizeof *c); \
    *c = sluice_on_chunk_((sluice_str){p, n}); \
    return c; \
  } \
  SLUICE_EXPORT("cabi_post_sluice:gateway/on-chunk@0.1.0#on-chunk") void sluice_on_chunk_done_(void *c) { (void)c; sluice_done_(); } \
  static sluice_chunk sluice_on_chunk_(sluice_str event)

#define SLUICE_ON_ERROR(err) \
  static void sluice_on_error_(const sluice_failure *); \
  SLUICE_EXPORT("sluice:gateway/on-error@0.1.0#on-error") \
  void sluice_on_error_export_(uint32_t status, const char *cp, uint32_t cn, const char *mp, uint32_t mn) { \
    sluice_failure f = {(uint16_t)status, {cp, cn}, {mp, mn}}; \
    sluice_on_error_(&f); \
    sluice_done_(); \
  } \
  static void sluice_on_error_(const sluice_failure *err)

#define SLUICE_ON_END(end) \
  static void sluice_on_end_(const sluice_summary *); \
  SLUICE_EXPORT("sluice:gateway/on-end@0.1.0#on-end") \
  void sluice_on_end_export_(uint32_t status, uint64_t ms, uint64_t input, uint64_t output) { \
    sluice_summary s = {(uint16_t)status, ms, input, output}; \
    sluice_on_end_(&s); \
    sluice_done_(); \
  } \
  static void sluice_on_end_(const sluice_summary *end)

/* The compiler calls these by itself. */
void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
  return to;
}
void *memset(void *at, int c, size_t n) {
  for (size_t i = 0; i < n; i++) ((volatile char *)at)[i] = (char)c;
  return at;
}
#endif
