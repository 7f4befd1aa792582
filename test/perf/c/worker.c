// worker: an engine that costs next to nothing. One thread, epoll, and a wheel
// of milliseconds that sends the events of all streams.
//
//   worker FIRSTPORT COUNT        listens on COUNT ports
//
// GET /health, /v1/models   what a gateway asks before it takes a worker
// GET /perf/set?events=N&delay_ms=D   how streams are from now on; N = 0: without end
// POST anything             1 KiB of JSON; or, if "stream":true stands among
//                           the last bytes of the body, events of 200 bytes.
//                           Each tells when it was sent: "t":"<ns, 19 digits>"
#include "net.h"

#include <signal.h>

enum {
  tail_max = 256,   // bytes of a body's end that are looked at
  head_max = 16384, // bytes of a request's head
  wheel_size = 2048 // milliseconds; no pause is longer
};

struct conn {
  int fd;
  // The request that is being read.
  char *head;  // its head as far as it has come, if not all has
  size_t head_len;
  bool in_body, is_get;
  long body_left;
  char tail[tail_max];
  size_t tail_len;
  char path[128];
  // The stream that is being sent.
  bool streaming, endless;
  long events_left;
  uint64_t interval, due;      // milliseconds
  struct conn *next, **place;  // in the wheel; place is NULL outside it
  // What the kernel did not take yet.
  char *rest;
  size_t rest_len;
};

static int ep;
static struct conn *wheel[wheel_size];
static uint64_t tick;  // the millisecond that the wheel has reached
static long scheduled, stream_number;
static long set_events = 100, set_delay = 10;
static char scratch[(256 << 10) + 1];

// ---- answers

static char answer[2048];
static size_t answer_len;

// An event is one chunk of the answer. Its time stands at stamp_at.
static char event[256];
static size_t event_len, stamp_at;
static const char stream_head[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    "x-request-id: req_0123456789\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char stream_end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

static void make_answers(void) {
  char body[1100], payload[201];
  int n = sprintf(body,
                  "{\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m-1\","
                  "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
  static const char end[] =
      "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":400,\"completion_tokens\":180,\"total_tokens\":580}}";
  while (n + (int)sizeof end - 1 < 1024) {
    body[n] = n % 6 ? (char)('a' + n % 26) : ' ';
    n++;
  }
  n += sprintf(body + n, "%s", end);
  answer_len = (size_t)sprintf(answer,
                               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_0123456789\r\n"
                               "openai-processing-ms: 12\r\nContent-Length: %d\r\n\r\n%s",
                               n, body);

  n = sprintf(payload,
              "data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"t\":\"0000000000000000000\","
              "\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
  static const char fin[] = "\"},\"finish_reason\":null}]}\n\n";
  while (n + (int)sizeof fin - 1 < 200) {
    payload[n] = n % 6 ? (char)('a' + n % 26) : ' ';  // words: a module may wait for the end of one
    n++;
  }
  sprintf(payload + n, "%s", fin);
  event_len = (size_t)sprintf(event, "c8\r\n%s\r\n", payload);
  stamp_at = (size_t)(strstr(event, "\"t\":\"") + 5 - event);
}

static void stamp(void) {
  uint64_t t = now_ns();
  for (int i = 18; i >= 0; i--, t /= 10) event[stamp_at + (size_t)i] = (char)('0' + t % 10);
}

// ---- connections

static void unschedule(struct conn *c) {
  if (!c->place) return;
  *c->place = c->next;
  if (c->next) c->next->place = c->place;
  c->place = NULL;
  scheduled--;
}

static void schedule(struct conn *c) {
  struct conn **slot = &wheel[c->due % wheel_size];
  c->next = *slot;
  if (c->next) c->next->place = &c->next;
  c->place = slot;
  *slot = c;
  scheduled++;
}

static void drop(struct conn *c) {
  unschedule(c);
  close(c->fd);
  free(c->head);
  free(c->rest);
  free(c);
}

// put sends, and keeps what does not go. False: the connection is broken.
static bool put(struct conn *c, const char *b, size_t n) {
  ssize_t w = c->rest ? 0 : send(c->fd, b, n, MSG_NOSIGNAL);
  if (w == (ssize_t)n) return true;
  if (w < 0 && errno != EAGAIN) return false;
  size_t done = w < 0 ? 0 : (size_t)w;
  c->rest = realloc(c->rest, c->rest_len + n - done);
  if (!c->rest) die("realloc");
  memcpy(c->rest + c->rest_len, b + done, n - done);
  c->rest_len += n - done;
  watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT, c);
  return true;
}

static bool put_rest(struct conn *c) {
  ssize_t w = send(c->fd, c->rest, c->rest_len, MSG_NOSIGNAL);
  if (w < 0) return errno == EAGAIN;
  c->rest_len -= (size_t)w;
  if (c->rest_len > 0) {
    memmove(c->rest, c->rest + w, c->rest_len);
    return true;
  }
  free(c->rest);
  c->rest = NULL;
  watch(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
  return true;
}

static bool put_text(struct conn *c, const char *status, const char *body) {
  char b[1024];
  int n = snprintf(b, sizeof b, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
                   strlen(body), body);
  return put(c, b, (size_t)n);
}

// ---- requests

static bool begin_stream(struct conn *c) {
  c->streaming = true;
  c->endless = set_events == 0;
  c->events_left = set_events;
  c->interval = (uint64_t)set_delay;
  if (scheduled == 0) tick = now_ns() / 1000000;
  // Streams begin spread over the interval, not all at once.
  c->due = tick + 1 + (uint64_t)stream_number++ % c->interval;
  schedule(c);
  return put(c, stream_head, sizeof stream_head - 1);
}

static bool respond(struct conn *c) {
  if (!c->is_get) {
    c->tail[c->tail_len] = 0;
    bool stream = strstr(c->tail, "\"stream\":true") || strstr(c->tail, "\"stream\": true");
    return stream ? begin_stream(c) : put(c, answer, answer_len);
  }
  long events, delay;
  if (sscanf(c->path, "/perf/set?events=%ld&delay_ms=%ld", &events, &delay) == 2) {
    if (events < 0 || delay < 1 || delay >= wheel_size) return put_text(c, "400 Bad Request", "{}");
    set_events = events;
    set_delay = delay;
    return put_text(c, "200 OK", "{}");
  }
  if (strcmp(c->path, "/health") == 0) return put_text(c, "200 OK", "{}");
  if (strcmp(c->path, "/v1/models") == 0)
    return put_text(c, "200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"m-1\",\"object\":\"model\",\"created\":1,\"owned_by\":\"perf\"}]}");
  return put_text(c, "404 Not Found", "{\"error\":{\"message\":\"not here\"}}");
}

// take_body notes the last bytes of what came. False: more came than belongs
// to the request.
static bool take_body(struct conn *c, const char *b, size_t n) {
  const size_t room = tail_max - 1;
  if ((long)n > c->body_left) return false;
  c->body_left -= (long)n;
  if (n >= room) {
    memcpy(c->tail, b + n - room, room);
    c->tail_len = room;
    return true;
  }
  if (c->tail_len + n > room) {
    size_t stays = room - n;
    memmove(c->tail, c->tail + c->tail_len - stays, stays);
    c->tail_len = stays;
  }
  memcpy(c->tail + c->tail_len, b, n);
  c->tail_len += n;
  return true;
}

// take_head reads the head in b, which ends with a 0. It returns the head's
// length, 0 if more must come, -1 if it is not understood.
static ssize_t take_head(struct conn *c, char *b, size_t n) {
  char *end = memmem(b, n, "\r\n\r\n", 4);
  if (!end) return n < head_max ? 0 : -1;
  *end = 0;
  char method[16];
  if (sscanf(b, "%15s %127s", method, c->path) != 2) return -1;
  if (strcasestr(b, "\r\ntransfer-encoding:")) return -1;
  char *length = strcasestr(b, "\r\ncontent-length:");
  c->is_get = strcmp(method, "GET") == 0;
  c->body_left = length ? atol(length + 17) : 0;
  c->in_body = true;
  c->tail_len = 0;
  return end + 4 - b;
}

// take reads what came of a request. False: the connection must end.
static bool take(struct conn *c, char *b, size_t n) {
  if (c->streaming) return false;  // no request comes before the answer has ended
  if (!c->in_body) {
    if (c->head_len > 0) {  // the head came in pieces: put them together
      if (c->head_len + n >= sizeof scratch) return false;
      memmove(b + c->head_len, b, n);
      memcpy(b, c->head, c->head_len);
      n += c->head_len;
      c->head_len = 0;
      free(c->head);
      c->head = NULL;
    }
    b[n] = 0;
    ssize_t head = take_head(c, b, n);
    if (head < 0) return false;
    if (head == 0) {
      c->head = must_alloc(1, n);
      memcpy(c->head, b, n);
      c->head_len = n;
      return true;
    }
    b += head;
    n -= (size_t)head;
  }
  if (!take_body(c, b, n)) return false;
  if (c->body_left > 0) return true;
  c->in_body = false;
  return respond(c);
}

static void readable(struct conn *c) {
  ssize_t n = read(c->fd, scratch, sizeof scratch - 1);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0 || !take(c, scratch, (size_t)n)) drop(c);
}

// ---- streams

static bool send_event(struct conn *c) {
  bool last = !c->endless && --c->events_left == 0;
  stamp();
  if (!last) {
    c->due += c->interval;
    schedule(c);
    return put(c, event, event_len);
  }
  char b[sizeof event + sizeof stream_end];
  memcpy(b, event, event_len);
  memcpy(b + event_len, stream_end, sizeof stream_end - 1);
  c->streaming = false;
  return put(c, b, event_len + sizeof stream_end - 1);
}

// turn_wheel sends what has become due.
static void turn_wheel(void) {
  uint64_t now = now_ns() / 1000000;
  while (scheduled > 0 && tick < now) {
    tick++;
    struct conn *next;
    for (struct conn *c = wheel[tick % wheel_size]; c; c = next) {
      next = c->next;
      if (c->due > tick) continue;
      unschedule(c);
      if (!send_event(c)) drop(c);
    }
  }
}

// next_due is when the wheel must be turned again; 0: not before a request.
static uint64_t next_due(void) {
  if (scheduled == 0) return 0;
  uint64_t t = tick + 1;
  while (!wheel[t % wheel_size]) t++;
  return t * 1000000;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: worker FIRSTPORT COUNT\n");
    return 2;
  }
  int first = atoi(argv[1]), count = atoi(argv[2]);
  signal(SIGPIPE, SIG_IGN);
  make_answers();
  ep = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < count; i++) {
    struct conn *l = must_alloc(1, sizeof *l);  // a listener is a connection without a state
    l->fd = listen_on(first + i);
    l->place = &l->next;  // marks it: a place that is in no slot
    watch(ep, EPOLL_CTL_ADD, l->fd, EPOLLIN, l);
  }
  struct epoll_event ev[512];
  for (;;) {
    int n = wait_until(ep, ev, 512, next_due());
    for (int i = 0; i < n; i++) {
      struct conn *c = ev[i].data.ptr;
      if (c->place == &c->next) {
        for (int fd; (fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
          struct conn *a = must_alloc(1, sizeof *a);
          a->fd = fd;
          no_delay(fd);
          watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN, a);
        }
        continue;
      }
      if (ev[i].events & EPOLLOUT && c->rest && !put_rest(c)) {
        drop(c);
        continue;
      }
      if (ev[i].events & ~(uint32_t)EPOLLOUT) readable(c);
    }
    turn_wheel();
  }
}
