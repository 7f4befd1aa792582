package relay

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"sluice/internal/fleet"
	"sluice/internal/kit/upstream"
)

// What net/http is told of workers, who are asked rarely through it.
const (
	dialTimeout   = 10 * time.Second
	keepAlive     = 30 * time.Second
	maxHeader     = 64 << 10
	idlePerWorker = 16
)

// Transport returns what the fleet's checks and the operators' calls go
// through; requests for inference have a client of their own. The caller closes
// its idle connections at the end.
//
// Proxies named by the environment are not asked: workers are neighbours.
func Transport(cfg upstream.Config, secure func() *tls.Config) *http.Transport {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			conf := secure().Clone() // now: its files may have changed
			conf.NextProtos = []string{"http/1.1"}
			return (&tls.Dialer{NetDialer: d, Config: conf}).DialContext(ctx, network, addr)
		},
		DialContext:            fleet.Dialer(d.DialContext),
		MaxIdleConnsPerHost:    idlePerWorker,
		IdleConnTimeout:        cfg.PoolIdle,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
}
