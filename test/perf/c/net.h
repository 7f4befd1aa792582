// net.h: what worker, load and floor all need of the kernel. Linux only.
#ifndef NET_H
#define NET_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what) {
  perror(what);
  exit(1);
}

static inline void *must_alloc(size_t count, size_t size) {
  void *p = calloc(count, size);
  if (!p) die("calloc");
  return p;
}

static inline struct sockaddr_in loopback(int port) {
  return (struct sockaddr_in){
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline void no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

// listen_on returns a listener that does not block. Several processes may
// listen on one port; the kernel then shares the connections out.
static inline int listen_on(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in a = loopback(port);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&a, sizeof a)) die("bind");
  if (listen(fd, 16384)) die("listen");
  return fd;
}

// connect_to waits until it is connected and returns a socket that does not
// block, or -1.
static inline int connect_to(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in a = loopback(port);
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
    close(fd);
    return -1;
  }
  fcntl(fd, F_SETFL, O_NONBLOCK);
  no_delay(fd);
  return fd;
}

static inline void watch(int ep, int op, int fd, uint32_t events, void *ptr) {
  struct epoll_event ev = {.events = events, .data.ptr = ptr};
  if (epoll_ctl(ep, op, fd, &ev)) die("epoll_ctl");
}

// wait_until waits for events, until a time of now_ns at the latest; 0 is
// without end.
static inline int wait_until(int ep, struct epoll_event *ev, int max, uint64_t until) {
  struct timespec left = {0, 0};
  if (until) {
    uint64_t now = now_ns();
    if (until > now) left = (struct timespec){(time_t)((until - now) / 1000000000u), (long)((until - now) % 1000000000u)};
  }
  int n = epoll_pwait2(ep, ev, max, until ? &left : NULL, NULL);
  if (n < 0 && errno != EINTR) die("epoll_pwait2");
  return n < 0 ? 0 : n;
}

#endif
