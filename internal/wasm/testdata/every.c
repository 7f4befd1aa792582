// A module for tests. It has every hook, and does what the request's query says:
// pairs hook=what, parted by &. It remembers the query between its hooks, counts
// each call under the hook's name, and writes what it is told.
#include "../scaffold/files/c/sluice.h"

static sluice_str told(sluice_str all, sluice_str key) {
  for (uint32_t i = 0; i < all.n;) {
    uint32_t end = i;
    while (end < all.n && all.p[end] != '&') end++;
    sluice_str part = {all.p + i, end - i};
    if (part.n > key.n && sluice_begins(part, key) && part.p[key.n] == '=') return (sluice_str){part.p + key.n + 1, part.n - key.n - 1};
    i = end + 1;
  }
  return (sluice_str){0, 0};
}
#define TOLD(key) sluice_str does = told(sluice_state(), SLUICE_S(key)); sluice_count(SLUICE_S(key), 1)
#define IS(what) sluice_equal(does, SLUICE_S(what))

static volatile uint32_t sink;
static __attribute__((noinline)) uint32_t deep(uint32_t n) { return sink == 1 ? 0 : deep(n + 1) + sink; }

// What no guest should do, in any hook.
static void misbehave(sluice_str does) {
  if (IS("trap")) __builtin_trap();
  if (IS("spin")) for (;;) sink++;
  if (IS("deep")) sink = 0, sink += deep(0);
  if (IS("bomb")) while (__builtin_wasm_memory_grow(0, 16) != (size_t)-1) { // writes to each page that it gets
    uint32_t size = (uint32_t)__builtin_wasm_memory_size(0) << 16;
    for (uint32_t at = size - (16 << 16); at < size; at += 4096) *(volatile char *)(uintptr_t)at = 1;
  }
  if (IS("lines")) for (int i = 0; i < 1000; i++) sluice_log(SLUICE_INFO, SLUICE_S("a line"));
  if (IS("counters")) for (uint32_t i = 0; i < 1000; i++) sluice_count(SLUICE_JOIN(SLUICE_S("c"), sluice_number(i)), 1);
  if (IS("keys")) for (uint32_t i = 0; i < 10000; i++) sluice_add(SLUICE_JOIN(SLUICE_S("k"), sluice_number(i)), 1, 0);
}

static sluice_action with(const sluice_field *set) {
  sluice_action a = sluice_modify();
  a.modify.set.p = set, a.modify.set.n = 1;
  return a;
}
#define FIELD(name, value) ({ static const sluice_field f = {{name, sizeof name - 1}, {value, sizeof value - 1}}; &f; })

static sluice_action body(sluice_str b) {
  sluice_action a = sluice_modify();
  a.modify.has_body = 1, a.modify.body = b;
  return a;
}

// What is the same for requests and answers.
static sluice_action act(sluice_str does) {
  misbehave(does);
  if (IS("reject")) return sluice_reject(403);
  if (IS("reject-0")) return sluice_reject(0);
  if (IS("reject-999")) return sluice_reject(999);
  if (IS("line-end")) return with(FIELD("x-bad", "a\r\nx-smuggled: b"));
  if (IS("blanks")) return with(FIELD("x-set", " \tlead and trail\t "));
  if (IS("control")) return with(FIELD("x-bad", "a\001b"));
  if (IS("bad-name")) return with(FIELD("x bad", "a"));
  if (IS("no-name")) return with(FIELD("", "a"));
  if (IS("not-utf8")) return with(FIELD("x-bad", "\xff\xfe"));
  if (IS("framing")) return with(FIELD("Content-Length", "3"));
  if (IS("chunked")) return with(FIELD("Transfer-Encoding", "chunked"));
  if (IS("no-body")) return body(SLUICE_S(""));
  if (IS("huge-body")) return body((sluice_str){sluice_alloc(11 << 20), 11 << 20});
  if (IS("outside")) return body((sluice_str){(const char *)0x7fffff00, 4096});
  if (IS("huge-list")) { sluice_action a = with(0); a.modify.set.n = 1 << 28; return a; }
  if (IS("bad-form")) { sluice_action a = sluice_continue(); a.kind = 7; return a; }
  if (IS("headers")) {
    static const sluice_str remove[] = {{"X-Gone", 6}};
    static const sluice_field add[] = {{{"x-more", 6}, {"1", 1}}, {{"x-more", 6}, {"2", 1}}};
    sluice_action a = with(FIELD("x-set", "new"));
    a.modify.remove.p = remove, a.modify.remove.n = 1, a.modify.add.p = add, a.modify.add.n = 2;
    return a;
  }
  return sluice_continue();
}

SLUICE_ON_REQUEST(req) {
  if (!sluice_set_state(req->query)) __builtin_trap();
  sluice_add(SLUICE_S("seen"), 1, 0);
  TOLD("request");
  if (IS("body")) return body(SLUICE_S("{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"a longer text than there was\"}]}"));
  if (IS("nonsense")) return body(SLUICE_S("no JSON"));
  if (IS("tell")) { // what it sees
    sluice_action a = sluice_modify();
    sluice_field *f = sluice_alloc(2 * sizeof *f);
    f[0] = (sluice_field){SLUICE_S("x-model"), sluice_model()};
    f[1] = (sluice_field){SLUICE_S("x-seen"), sluice_number((uint64_t)sluice_get(SLUICE_S("seen")))};
    a.modify.set.p = f, a.modify.set.n = 2;
    return a;
  }
  return act(does);
}

SLUICE_ON_RESPONSE(resp) {
  (void)resp;
  TOLD("response");
  if (IS("body")) return body(SLUICE_S("{\"said\":\"another thing\"}"));
  sluice_action a = sluice_modify();
  a.modify.has_status = 1;
  if (IS("status")) { a.modify.status = 201; return a; }
  if (IS("status-0")) { a.modify.status = 0; return a; }
  if (IS("status-204")) { a.modify.status = 204; return a; }
  if (IS("status-999")) { a.modify.status = 999; return a; }
  return act(does);
}

SLUICE_ON_CHUNK(event) {
  TOLD("chunk");
  misbehave(does);
  if (IS("drop")) return sluice_drop();
  if (IS("replace")) return sluice_replace(SLUICE_JOIN(SLUICE_S("["), event, SLUICE_S("]")));
  if (IS("empty")) return sluice_replace(SLUICE_S(""));
  if (IS("finish")) return sluice_finish(SLUICE_S("data: the end\n\n"));
  if (IS("bad-form")) return (sluice_chunk){9, event};
  if (IS("outside")) return sluice_replace((sluice_str){(const char *)0x7fffff00, 4096});
  if (IS("huge")) return sluice_replace((sluice_str){sluice_alloc(11 << 20), 11 << 20});
  if (IS("secret")) { // replaces events that have the word
    for (uint32_t i = 0; i + 6 <= event.n; i++)
      if (sluice_equal((sluice_str){event.p + i, 6}, SLUICE_S("secret"))) return sluice_replace(SLUICE_S("data: ***\n\n"));
  }
  return sluice_pass();
}

SLUICE_ON_ERROR(err) {
  TOLD("error");
  misbehave(does);
  sluice_log(SLUICE_WARN, SLUICE_JOIN(SLUICE_S("error "), sluice_number(err->status), SLUICE_S(" "), err->code));
}

SLUICE_ON_END(end) {
  TOLD("end");
  misbehave(does);
  sluice_log(SLUICE_INFO, SLUICE_JOIN(SLUICE_S("end "), sluice_number(end->status), SLUICE_S(" "), sluice_number(end->input_tokens), SLUICE_S("+"), sluice_number(end->output_tokens)));
}
