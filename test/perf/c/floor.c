// floor: the least that a proxy can cost. Every byte of a client goes to a
// worker connection of its own, every byte of the worker back: one read and one
// write each way. It does not parse, pool, log or count.
//
//   floor PROCESSES PORT WORKERPORT...
#include "net.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

// A side is one end of a relay. What the other end does not take at once waits
// in rest, and this side is not read meanwhile.
struct side {
  int fd;
  bool closed;
  struct side *peer;
  char *rest;  // read here, not yet written to peer
  size_t rest_len;
};

static int ep;
static char buf[256 << 10];

// finish closes both ends. The memory is kept until the end of the batch of
// events, which may name the other end.
static struct side *dead[4096];
static int dead_count;

static void finish(struct side *s) {
  struct side *ends[] = {s, s->peer};
  if (s->closed) return;
  for (int i = 0; i < 2; i++) {
    close(ends[i]->fd);
    free(ends[i]->rest);
    ends[i]->closed = true;
  }
  if (dead_count < 4096) dead[dead_count++] = s < s->peer ? s : s->peer;
}

#define READ (EPOLLIN | EPOLLRDHUP | EPOLLET)

// keep puts aside what peer does not take now.
static void keep(struct side *s, const char *b, size_t n) {
  s->rest = must_alloc(1, n);
  s->rest_len = n;
  memcpy(s->rest, b, n);
  watch(ep, EPOLL_CTL_MOD, s->peer->fd, READ | EPOLLOUT, s->peer);
}

// pass_on writes n bytes to the peer of s. False: the relay has ended, or must
// wait for the peer.
static bool pass_on(struct side *s, const char *b, size_t n) {
  ssize_t w = write(s->peer->fd, b, n);
  if (w == (ssize_t)n) return true;
  if (w < 0 && errno != EAGAIN) {
    finish(s);
    return false;
  }
  size_t done = w < 0 ? 0 : (size_t)w;
  keep(s, b + done, n - done);
  return false;
}

// relay reads once, and again only if there may be more: events come on edges.
static void relay(struct side *s, bool to_the_end) {
  while (!s->rest) {
    ssize_t n = read(s->fd, buf, sizeof buf);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      finish(s);
      return;
    }
    if (!pass_on(s, buf, (size_t)n)) return;
    if (n < (ssize_t)sizeof buf && !to_the_end) return;
  }
}

// writable sends what was read from the peer of s and waits.
static void writable(struct side *s) {
  struct side *from = s->peer;
  char *rest = from->rest;
  size_t n = from->rest_len;
  if (!rest) return;
  from->rest = NULL;
  watch(ep, EPOLL_CTL_MOD, s->fd, READ, s);
  bool more = pass_on(from, rest, n);
  free(rest);
  if (more) relay(from, true);
}

static void accept_all(int listener, const int *ports, int count) {
  static int turn;
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    int up = connect_to(ports[turn++ % count]);
    if (up < 0) {
      close(fd);
      continue;
    }
    no_delay(fd);
    struct side *s = must_alloc(2, sizeof *s);
    s[0] = (struct side){.fd = fd, .peer = &s[1]};
    s[1] = (struct side){.fd = up, .peer = &s[0]};
    watch(ep, EPOLL_CTL_ADD, fd, READ, &s[0]);
    watch(ep, EPOLL_CTL_ADD, up, READ, &s[1]);
  }
}

static void serve(int port, const int *ports, int count) {
  int listener = listen_on(port);
  struct epoll_event ev[512];
  ep = epoll_create1(EPOLL_CLOEXEC);
  watch(ep, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
  for (;;) {
    int n = wait_until(ep, ev, 512, 0);
    for (int i = 0; i < n; i++) {
      struct side *s = ev[i].data.ptr;
      if (!s) {
        accept_all(listener, ports, count);
        continue;
      }
      if (!s->closed && ev[i].events & EPOLLOUT) writable(s);
      if (!s->closed && ev[i].events & ~(uint32_t)EPOLLOUT) relay(s, ev[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    }
    while (dead_count > 0) free(dead[--dead_count]);
  }
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: floor PROCESSES PORT WORKERPORT...\n");
    return 2;
  }
  int count = argc - 3, *ports = must_alloc((size_t)count, sizeof *ports);
  for (int i = 0; i < count; i++) ports[i] = atoi(argv[3 + i]);
  signal(SIGPIPE, SIG_IGN);
  for (int i = 1; i < atoi(argv[1]); i++) {
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // the first process takes the others with it
      break;
    }
  }
  serve(atoi(argv[2]), ports, count);
}
