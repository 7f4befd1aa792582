// load: asks over many connections from one thread, and measures.
//
//   load -p PORT -f BODYFILE [-n CONNECTIONS] [-k KEY] [-w SECONDS] [-t SECONDS]
//        [-r RATE | -s] [-N REQUESTS] [-o OPENINGS] [-u TARGET] [-x HEADER]... [-a STATUS] [-i]
//
// It warms up for -w seconds, then writes the line "begin", measures for -t
// seconds (or -N requests), writes "end", and a line of JSON. Whoever runs it
// reads the proxy's CPU at these two lines. Three kinds of load:
//
//   closed loop   each connection asks again when it has its answer. No request
//                 is under way at "begin" and at "end".
//   -r RATE       open loop: RATE requests a second begin when it is their time,
//                 however slow the answers are. Latency counts from that time.
//   -s            held streams: each connection asks once, for a stream that has
//                 no end. Opened at -o a second.
//
// -u is what is asked for, -x a further header field, -a the status that
// answers have to have (200), 0 for any. -i waits after "begin" for a line of
// standard input.
#include "net.h"

#include <inttypes.h>
#include <sys/prctl.h>

// ---- what was measured

// A histogram has 128 buckets for each power of two, so a value is right to 1 %.
struct histogram {
  uint64_t count, bucket[58 * 128];
};

static unsigned bucket_of(uint64_t v) {
  if (v < 128) return (unsigned)v;
  unsigned power = 63u - (unsigned)__builtin_clzll(v);
  return (power - 6) * 128 + (unsigned)((v >> (power - 7)) & 127);
}

static double value_of(unsigned b) {
  if (b < 128) return b;
  unsigned power = b / 128 + 6;
  return (double)((1ull << power) + ((uint64_t)(b % 128) << (power - 7))) + (double)(1ull << (power - 7)) / 2;
}

static void record(struct histogram *h, uint64_t v) {
  h->bucket[bucket_of(v)]++;
  h->count++;
}

static double percentile_us(const struct histogram *h, double p) {
  uint64_t want = (uint64_t)((double)h->count * p), seen = 0;
  if (want >= h->count) want = h->count - 1;
  for (unsigned b = 0; h->count && b < sizeof h->bucket / sizeof *h->bucket; b++)
    if ((seen += h->bucket[b]) > want) return value_of(b) / 1000;
  return 0;
}

static struct histogram latency, first_byte, transit;
static long requests, chunks, errors, bytes;
static bool measuring;

// fault counts what must not happen, and tells the first.
static void fault(const char *what, const char *detail) {
  if (errors++ == 0) fprintf(stderr, "load: %s: %s\n", what, detail);
}

// ---- connections

enum framing { by_length, by_chunks };
enum chunk_part { size_line, data, data_end, trailer };

struct conn {
  int fd;
  bool busy, answered;
  uint64_t from;   // when the request should have begun
  size_t written;  // of the request
  // The answer: its head as far as it has come, then its body.
  bool in_body, close_after;
  char head[2048];
  size_t head_len;
  enum framing framing;
  enum chunk_part part;
  uint64_t left;  // of the body or the chunk
  bool line_empty;
  // The timestamp in a stream, found byte by byte.
  int mark, digits;
  uint64_t stamp;
};

static int ep, port = 0;
static char *request;
static size_t request_len;
static struct conn *conns, **idle;
static int conn_count = 1, opened, idle_count, busy_count, streams_begun;
static long asked, ask_limit = 0;  // since "begin"; 0: no limit
static double rate = 0, openings = 0;
static bool hold, asking = true;
static int status = 200;

static void write_on(struct conn *c) {
  while (c->written < request_len) {
    ssize_t n = send(c->fd, request + c->written, request_len - c->written, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT, c);
      return;  // a broken connection shows when it is read
    }
    bool waited = c->written > 0;
    c->written += (size_t)n;
    if (waited && c->written == request_len) watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
  }
}

static void ask(struct conn *c, uint64_t from) {
  c->busy = true;
  c->answered = c->in_body = false;
  c->from = from;
  c->written = c->head_len = 0;
  busy_count++;
  asked++;
  write_on(c);
}

static void open_conn(struct conn *c) {
  c->fd = connect_to(port);
  if (c->fd < 0) {
    perror("load: connect");
    exit(1);
  }
  watch(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
}

static bool may_ask(void) { return asking && (ask_limit == 0 || asked < ask_limit); }

// release is called when c has nothing under way.
static void release(struct conn *c) {
  if (rate == 0 && !hold && may_ask())
    ask(c, now_ns());
  else
    idle[idle_count++] = c;
}

static void answered_all(struct conn *c, uint64_t now) {
  c->busy = false;
  busy_count--;
  if (hold) fault("a stream ended", "it should have no end");
  if (measuring) {
    requests++;
    record(&latency, now - c->from);
  }
  if (c->close_after) {
    close(c->fd);
    open_conn(c);
  }
  release(c);
}

static void broken(struct conn *c, const char *why) {
  close(c->fd);
  if (c->busy) {
    fault("an answer is broken off", why);
    busy_count--;
    c->busy = false;
    if (errors > 1000) exit(1);
    open_conn(c);
    release(c);
    return;
  }
  open_conn(c);  // the server does not keep idle connections for ever
}

// ---- answers

static void take_stamp(struct conn *c, uint64_t now) {
  if (c->answered == false) return;
  chunks += measuring;
  if (measuring) record(&transit, now > c->stamp ? now - c->stamp : 0);
}

// scan looks for "t":"<19 digits>, which may be spread over several reads.
static void scan(struct conn *c, const char *b, size_t n, uint64_t now) {
  static const char mark[] = "\"t\":\"";
  for (const char *end = b + n; b < end; b++) {
    if (c->digits > 0) {
      c->stamp = c->stamp * 10 + (uint64_t)(*b - '0');
      if (--c->digits == 0) take_stamp(c, now);
    } else if (*b == mark[c->mark]) {
      if (mark[++c->mark] == 0) {
        c->mark = 0;
        c->digits = 19;
        c->stamp = 0;
      }
    } else {
      c->mark = *b == '"';
    }
  }
}

// take_head returns how many bytes of b belong to the head, -1 if it is not
// one. in_body tells whether it is complete.
static ssize_t take_head(struct conn *c, const char *b, size_t n) {
  size_t had = c->head_len, room = sizeof c->head - 1 - had, take = n < room ? n : room;
  memcpy(c->head + had, b, take);
  c->head_len += take;
  c->head[c->head_len] = 0;
  char *end = strstr(c->head, "\r\n\r\n");
  if (!end) return take == room ? -1 : (ssize_t)take;
  *end = 0;
  if (strncmp(c->head, "HTTP/1.1 ", 9) != 0 || (status && atoi(c->head + 9) != status)) {
    c->head[strcspn(c->head, "\r")] = 0;
    fault("an answer has another status", c->head);
  }
  char *length = strcasestr(c->head, "\r\ncontent-length:");
  c->framing = length ? by_length : by_chunks;
  c->left = length ? strtoull(length + 17, NULL, 10) : 0;
  if (!length && !strcasestr(c->head, "\r\ntransfer-encoding: chunked")) return -1;
  c->close_after = strcasestr(c->head, "\r\nconnection: close") != NULL;
  c->part = size_line;
  c->mark = c->digits = 0;
  c->in_body = true;
  return end + 4 - c->head - (ssize_t)had;
}

static int hex(char ch) {
  if (ch >= '0' && ch <= '9') return ch - '0';
  ch |= 32;
  return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

enum result { more, complete, malformed };

static enum result take_chunks(struct conn *c, const char *b, size_t n, uint64_t now) {
  for (size_t i = 0; i < n;) {
    char ch = b[i];
    switch (c->part) {
      case size_line:
        i++;
        if (ch == '\n') {
          c->part = c->left > 0 ? data : trailer;
          c->line_empty = true;
        } else if (ch != '\r') {
          if (hex(ch) < 0) return malformed;
          c->left = c->left * 16 + (uint64_t)hex(ch);
        }
        break;
      case data: {
        size_t take = n - i < c->left ? n - i : (size_t)c->left;
        scan(c, b + i, take, now);
        i += take;
        c->left -= take;
        if (c->left == 0) c->part = data_end;
        break;
      }
      case data_end:
        i++;
        if (ch == '\n') c->part = size_line;
        else if (ch != '\r') return malformed;
        break;
      case trailer:
        i++;
        if (ch == '\n') {
          if (c->line_empty) return i == n ? complete : malformed;
          c->line_empty = true;
        } else if (ch != '\r') {
          c->line_empty = false;
        }
    }
  }
  return more;
}

static enum result take(struct conn *c, const char *b, size_t n, uint64_t now) {
  if (!c->answered) {
    c->answered = true;
    streams_begun++;
    if (measuring) record(&first_byte, now - c->from);
  }
  if (!c->in_body) {
    ssize_t head = take_head(c, b, n);
    if (head < 0) return malformed;
    if (!c->in_body) return more;
    b += head;
    n -= (size_t)head;
  }
  if (c->framing == by_chunks) return take_chunks(c, b, n, now);
  if (n > c->left) return malformed;
  c->left -= n;
  return c->left == 0 ? complete : more;
}

static void readable(struct conn *c) {
  static char buf[256 << 10];
  ssize_t n = recv(c->fd, buf, sizeof buf, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    broken(c, n == 0 ? "closed" : strerror(errno));
    return;
  }
  uint64_t now = now_ns();
  if (measuring) bytes += n;
  if (!c->busy) {
    broken(c, "bytes without a request");
    return;
  }
  switch (take(c, buf, (size_t)n, now)) {
    case more: break;
    case complete: answered_all(c, now); break;
    case malformed: broken(c, "its framing is wrong"); break;
  }
}

// ---- the run

static void read_request(const char *file, const char *key, const char *target, const char *fields) {
  FILE *f = fopen(file, "rb");
  if (!f) die(file);
  fseek(f, 0, SEEK_END);
  long n = ftell(f);
  rewind(f);
  request = must_alloc(1, (size_t)n + 2048 + strlen(target) + strlen(fields));
  request_len = (size_t)sprintf(request,
                                "POST %s HTTP/1.1\r\nHost: gateway.local:8080\r\nAccept: application/json\r\n"
                                "Accept-Encoding: gzip, deflate\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 1.50.0\r\n"
                                "X-Stainless-Lang: python\r\nX-Stainless-Runtime: CPython\r\nAuthorization: Bearer %s\r\n%s"
                                "Content-Length: %ld\r\n\r\n",
                                target, key, fields, n);
  if (fread(request + request_len, 1, (size_t)n, f) != (size_t)n) die(file);
  request_len += (size_t)n;
  fclose(f);
}

static uint64_t sec(double s) { return (uint64_t)(s * 1e9); }

static uint64_t run_began, rate_began;
static long begun_by_rate;

// open_due opens what should be open by now, and returns when the next is due.
static uint64_t open_due(uint64_t now) {
  int want = conn_count;
  if (openings > 0) {
    double w = (double)(now - run_began) / 1e9 * openings + 1;
    if (w < want) want = (int)w;
  }
  while (opened < want) {
    struct conn *c = &conns[opened++];
    open_conn(c);
    if (hold) ask(c, now_ns());
    else release(c);
  }
  return opened < conn_count ? now + 1000000 : 0;
}

// ask_due begins the requests whose time has come, and returns the next's.
static uint64_t ask_due(uint64_t now) {
  for (;;) {
    uint64_t due = rate_began + sec((double)begun_by_rate / rate);
    if (due > now) return due;
    if (idle_count == 0) return 0;  // when a connection is free
    begun_by_rate++;
    ask(idle[--idle_count], due);
  }
}

// step waits for events until a time at the latest and answers them.
static void step(uint64_t until) {
  static struct epoll_event ev[512];
  uint64_t now = now_ns(), wake = until, due = open_due(now);
  if (due && due < wake) wake = due;
  if (rate > 0 && asking) {
    due = ask_due(now_ns());
    if (due && due < wake) wake = due;
  }
  int n = wait_until(ep, ev, 512, wake);
  for (int i = 0; i < n; i++) {
    struct conn *c = ev[i].data.ptr;
    if (ev[i].events & EPOLLOUT) write_on(c);
    if (ev[i].events & ~(uint32_t)EPOLLOUT) readable(c);
  }
}

static void run_until(uint64_t until) {
  while (now_ns() < until) step(until);
}

// settle lets what is under way end.
static void settle(void) {
  uint64_t patience = now_ns() + sec(20);
  asking = false;
  while (busy_count > 0 && now_ns() < patience) step(patience);
  if (busy_count > 0) fault("answers do not come", "waited 20 s");
}

static void say(const char *line) {
  puts(line);
  fflush(stdout);
}

// own_time reads how long this thread has run, and how long it could have run
// but had to wait for a core, in seconds.
static void own_time(double *cpu, double *waited) {
  uint64_t ran = 0, stood = 0;
  FILE *f = fopen("/proc/self/schedstat", "r");
  if (!f || fscanf(f, "%" SCNu64 " %" SCNu64, &ran, &stood) != 2) die("/proc/self/schedstat");
  fclose(f);
  *cpu = (double)ran / 1e9;
  *waited = (double)stood / 1e9;
}

static void warm_up(double seconds) {
  uint64_t patience = now_ns() + sec(60);
  run_began = rate_began = now_ns();
  while (opened < conn_count || (hold && streams_begun < conn_count)) {
    if (now_ns() > patience) {
      fault("streams do not begin", "waited 60 s");
      break;
    }
    step(now_ns() + sec(0.01));
  }
  run_until(now_ns() + sec(seconds));
  if (rate == 0 && !hold) settle();
}

// resume goes on asking after settle.
static void resume(void) {
  asking = true;
  asked = 0;
  if (rate > 0 || hold) return;
  int n = idle_count;
  idle_count = 0;
  struct conn **waiting = must_alloc((size_t)conn_count, sizeof *waiting);
  memcpy(waiting, idle, (size_t)n * sizeof *waiting);
  for (int i = 0; i < n; i++) release(waiting[i]);
  free(waiting);
}

static void measure(double seconds, bool wait_for_input) {
  memset(&latency, 0, sizeof latency);
  memset(&first_byte, 0, sizeof first_byte);
  memset(&transit, 0, sizeof transit);
  say("begin");
  if (wait_for_input) {
    char line[16];
    if (!fgets(line, sizeof line, stdin)) exit(1);
  }
  double cpu, waited, cpu_end, waited_end;
  own_time(&cpu, &waited);
  uint64_t began = now_ns();
  measuring = true;
  resume();
  if (ask_limit > 0)
    while (busy_count > 0) step(now_ns() + sec(1));
  else
    run_until(began + sec(seconds));
  if (!hold) settle();
  measuring = false;
  double took = (double)(now_ns() - began) / 1e9;
  own_time(&cpu_end, &waited_end);
  say("end");
  printf("{\"seconds\":%.4f,\"requests\":%ld,\"chunks\":%ld,\"bytes\":%ld,\"errors\":%ld,\"open\":%d,\"load_cpu\":%.3f,"
         "\"load_waited\":%.3f,\"p50\":%.1f,\"p99\":%.1f,\"longest\":%.1f,\"first50\":%.1f,\"first99\":%.1f,\"transit50\":%.1f,\"transit99\":%.1f}\n",
         took, requests, chunks, bytes, errors, opened, (cpu_end - cpu) / took, (waited_end - waited) / took,
         percentile_us(&latency, .5), percentile_us(&latency, .99), percentile_us(&latency, 1), percentile_us(&first_byte, .5), percentile_us(&first_byte, .99),
         percentile_us(&transit, .5), percentile_us(&transit, .99));
}

int main(int argc, char **argv) {
  const char *body = NULL, *key = "k", *target = "/v1/chat/completions";
  char fields[1024] = "";
  size_t used = 0;
  double warm = 0.5, seconds = 2;
  bool wait_for_input = false;
  for (int o; (o = getopt(argc, argv, "p:f:n:k:w:t:r:N:o:u:x:a:si")) != -1;) {
    switch (o) {
      case 'p': port = atoi(optarg); break;
      case 'f': body = optarg; break;
      case 'n': conn_count = atoi(optarg); break;
      case 'k': key = optarg; break;
      case 'w': warm = atof(optarg); break;
      case 't': seconds = atof(optarg); break;
      case 'r': rate = atof(optarg); break;
      case 'N': ask_limit = atol(optarg); break;
      case 'o': openings = atof(optarg); break;
      case 'u': target = optarg; break;
      case 'x':
        used += (size_t)snprintf(fields + used, sizeof fields - used, "%s\r\n", optarg);
        if (used >= sizeof fields) {
          fprintf(stderr, "load: header fields of %zu bytes, want fewer than %zu\n", used, sizeof fields);
          return 2;
        }
        break;
      case 'a': status = atoi(optarg); break;
      case 's': hold = true; break;
      case 'i': wait_for_input = true; break;
      default: return 2;
    }
  }
  if (!port || !body || conn_count < 1) {
    fprintf(stderr, "usage: load -p PORT -f BODYFILE [-n CONNECTIONS] [-w S] [-t S] [-r RATE | -s] [-N REQUESTS] [-o OPENINGS]"
                    " [-u TARGET] [-x HEADER]... [-a STATUS] [-i]\n");
    return 2;
  }
  prctl(PR_SET_TIMERSLACK, 1);  // requests begin on time, not up to 50 µs later
  long limit = ask_limit;
  ask_limit = 0;  // counts from "begin"
  read_request(body, key, target, fields);
  conns = must_alloc((size_t)conn_count, sizeof *conns);
  idle = must_alloc((size_t)conn_count, sizeof *idle);
  ep = epoll_create1(EPOLL_CLOEXEC);
  warm_up(warm);
  ask_limit = limit;
  measure(seconds, wait_for_input);
  return 0;
}
