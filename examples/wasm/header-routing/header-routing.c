// Keeps a tenant's session at one worker: it makes the key by which the gateway
// routes (--routing-key-override, or the policies manual and consistent_hashing)
// of headers that applications send already. What a client sends as that key is
// taken away.
#include "sluice.h"

SLUICE_ON_REQUEST(req) {
  static const sluice_str remove[] = {{"x-smg-routing-key", 17}};
  sluice_action a = sluice_modify();
  a.modify.remove.p = remove, a.modify.remove.n = 1;

  sluice_str tenant = sluice_header(req->headers, "x-tenant"), session = sluice_header(req->headers, "x-session-id");
  if (!session.n) session = sluice_header(req->headers, "x-conversation-id");
  if (!tenant.n && !session.n) return a;

  sluice_field *set = sluice_alloc(sizeof *set);
  set->name = remove[0];
  set->value = SLUICE_JOIN(tenant, SLUICE_S("/"), session);
  a.modify.set.p = set, a.modify.set.n = 1;
  return a;
}
