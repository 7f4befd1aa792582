// Lets each client ask 60 times a minute. The numbers are shared between requests,
// and between instances of the module; a gateway has its own.
#include "sluice.h"

enum { PER_MINUTE = 60, MINUTE = 60000 };

// Who asks: a number made of their key, so that no key is kept (FNV-1a).
static uint64_t client(sluice_fields headers) {
  sluice_str who = sluice_header(headers, "authorization");
  if (!who.n) who = sluice_header(headers, "x-api-key");
  uint64_t h = 14695981039346656037u;
  for (uint32_t i = 0; i < who.n; i++) h = (h ^ (uint8_t)who.p[i]) * 1099511628211u;
  return h;
}

SLUICE_ON_REQUEST(req) {
  sluice_str key = SLUICE_JOIN(sluice_number(req->now_ms / MINUTE), SLUICE_S("|"), sluice_number(client(req->headers)));
  if (sluice_add(key, 1, 2 * MINUTE) <= PER_MINUTE) return sluice_continue();
  sluice_count(SLUICE_S("limited"), 1);
  return sluice_reject(429);
}
