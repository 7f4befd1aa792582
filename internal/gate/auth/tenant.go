package auth

import (
	"hash/maphash"
	"net/http"
	"strings"

	"sluice/internal/infer"
	"sluice/internal/kit/intern"
	"sluice/internal/kit/secret"
)

// maxTenant bounds a tenant's name, in bytes. No longer ones are interned.
const maxTenant = intern.MaxLen

// tenants finds out whose a key is, in time that does not grow with how many
// there are. It is constant.
//
// Keys are found by a hash whose seed nobody knows, so how long a search takes
// says nothing of how much of a key was guessed; only a key with the same 64
// bits is compared, all of it.
type tenants struct {
	seed  maphash.Seed
	byKey map[uint64][]tenant // by the hash of the key
}

type tenant struct {
	name string
	key  secret.String
}

// newTenants returns the tenants of keys as the settings have them, which must
// be valid; nil if there are none.
func newTenants(keys []secret.String) *tenants {
	if len(keys) == 0 {
		return nil
	}
	t := &tenants{seed: maphash.MakeSeed(), byKey: make(map[uint64][]tenant, len(keys))}
	for _, k := range keys {
		name, key, ok := strings.Cut(k.Reveal(), ":")
		if !ok || name == "" || key == "" {
			panic("BUG: a tenant's key was not checked")
		}
		h := maphash.String(t.seed, key)
		t.byKey[h] = append(t.byKey[h], tenant{strings.Clone(name), secret.New(key)})
	}
	return t
}

// of returns whose key it is.
func (t *tenants) of(key []byte) (name string, ok bool) {
	for _, x := range t.byKey[maphash.Bytes(t.seed, key)] {
		if x.key.Equal(key) {
			return x.name, true
		}
	}
	return "", false
}

// readTenant makes r the request of the tenant that the trusted header names. It
// returns why r is refused, nil if it is not.
//
// It is asked of requests with the gateway's own key or none: a tenant's key says
// whose they are, and no header says otherwise. What is no name is refused and
// not passed over, because a module that guards one tenant must not be avoided
// by misspelling it. The field goes to no worker: it is not among those that do.
func (g *gate) readTenant(r *infer.Request) *infer.Error {
	value, n := only(&r.Header, g.header)
	switch {
	case len(value) == 0 && n <= 1: // nobody, as proxies write it
		return nil
	case n > 1: // a client's beside a proxy's: whom to believe is not ours to guess
		return badTenant("More than one " + g.header + " header was sent. Send one.")
	case !isTenant(value):
		return badTenant("The " + g.header + " header does not name a tenant; want 1 to 128 visible ASCII characters, without a comma.")
	}
	r.Tenant = g.names.String(value)
	return nil
}

func badTenant(msg string) *infer.Error {
	return &infer.Error{Status: http.StatusBadRequest, Code: "invalid_tenant", Msg: msg}
}

// isTenant reports whether s can name a tenant: 1 to maxTenant visible ASCII
// characters. A comma is none of them, because proxies put one between two
// values of which they make one (RFC 9110 §5.3).
func isTenant[T []byte | string](s T) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == ',' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= maxTenant
}
