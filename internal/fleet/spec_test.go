package fleet

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sluice/internal/kit/breaker"
)

func TestParseURL(t *testing.T) {
	f := func(in string, bareOK bool, want string) {
		t.Helper()
		u, err := ParseURL(in, bareOK)
		if err != nil {
			t.Errorf("ParseURL(%q): %v, want %s", in, err, want)
			return
		}
		if got := u.String(); got != want {
			t.Errorf("ParseURL(%q) = %s, want %s", in, got, want)
		}
	}
	f("http://h", false, "http://h")
	f("http://H:80/", false, "http://h")
	f("https://h:443", false, "https://h")
	f("https://h:80", false, "https://h:80")
	f("http://h:0080//", false, "http://h")
	f("http://10.0.0.1:8000", false, "http://10.0.0.1:8000")
	f("http://[0:0:0:0:0:0:0:1]:8000", false, "http://[::1]:8000")
	f("http://h/prefix/v2/", false, "http://h/prefix/v2")
	f("h:8000", true, "http://h:8000")
	f("localhost:8000/", true, "http://localhost:8000")
	f("10.0.0.1:8000", true, "http://10.0.0.1:8000")
	f("[::1]:8000", true, "http://[::1]:8000")

	f("unix:/run/engine.sock", false, "unix:/run/engine.sock")
	f("unix:///run/engine.sock", true, "unix:/run/engine.sock")
	f("unix:/Run/a-b_c@d,e+f~$&;=.sock", true, "unix:/Run/a-b_c@d,e+f~$&;=.sock")
	f("unix:@engine", true, "unix:@engine")
	f("unix:8000", true, "http://unix:8000")

	refused := func(in string, bareOK bool, why string) {
		t.Helper()
		u, err := ParseURL(in, bareOK)
		if err == nil {
			t.Errorf("ParseURL(%q) = %s, want a refusal", in, u)
			return
		}
		if !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParseURL(%q): %v; want one that says %q and no password", in, err, why)
		}
	}
	refused("127.0.0.1:9199", false, "Invalid value for field 'worker_url': 127.0.0.1:9199 - URL must start with a lowercase http://, https://, grpc://, grpcs://, or ipc:// scheme")
	refused("HTTP://h", false, "lowercase http://")
	refused("", false, "lowercase http://")
	refused("", true, "must name a host")
	refused("ftp://h", true, "lowercase http://")
	refused("grpc://h:1", false, "not supported yet")
	refused("http://", false, "must name a host")
	refused("http://:80", false, "must name a host")
	refused("http://u:hunter2@h", false, "user or password")
	refused("http://u:hunter2@h:99999999", false, "http://****@h")
	refused("http://u:hunter2@h/%zz", false, "not a valid URL")
	refused("http://h?a=b", false, "query or fragment")
	refused("http://h?", false, "query or fragment")
	refused("http://h#", false, "query or fragment")
	refused("http://h:0", false, "1 to 65535")
	refused("http://h:65536", false, "1 to 65535")
	refused("http://h:", false, "follow the colon")
	refused("http://h/a/../b", false, "dot segments")
	refused("http://h/a//b", false, "//")
	refused("http://h/a%2fb", false, "escaped slashes")
	refused("http://h\nx", false, "not a valid URL")
	refused("http://a b", false, "not a valid URL")
	refused("http://[::g]:80", false, "")
	refused("http://"+strings.Repeat("é", 1000), false, "at most 2048 bytes")
	refused("http://h\xd5", false, "UTF-8")
	refused("unix:8000", false, "lowercase http://")
	refused("unix:engine.sock", false, "lowercase http://")
	refused("unix:", false, "lowercase http://")
	refused("unix:/", false, "slash at its end")
	refused("unix://host/run/x", false, "names a host")
	refused("unix:/run/x/", false, "slash at its end")
	refused("unix:/run/../x", false, "dot segments")
	refused("unix:/run//x", false, "must not hold //")
	refused("unix:////x", false, "must not hold //")
	refused("unix:@", false, "no path")
	refused("unix:/a b", false, "must not hold ' '")
	refused("unix:/a%20b", false, "must not hold '%'")
	refused("unix:/a:80", false, "must not hold ':'")
	refused("unix:/a?b", false, "must not hold '?'")
	refused("unix:/a\nb", false, "must not hold")
	refused("unix:/é", false, "must not hold")
	refused("unix:/"+strings.Repeat("a", 200), false, "at most")
	refused("http://"+strings.Repeat("h", 5000), false, "at most 2048 bytes")
}

// FuzzParseURL holds that what is accepted is accepted again, unchanged, and
// names the same worker whatever way it was written.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"http://h", "HTTP://H:80/", "https://u:p@h/a/../b?c#d", "[::1]:80", "h:80", "http://h%20:1", "http://[fe80::1%25eth0]:1/x", "http://h:/", "http://é/ü", "unix:/run/x", "unix:///run/x", "unix:@x", "unix:@@/x", "unix:/" + strings.Repeat("\x00", 2000), "unix:/" + strings.Repeat("\U0010ffff", 500)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s, true)
		if err != nil {
			if len(err.Error()) > 1500 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		v, err := ParseURL(u.String(), false)
		if err != nil {
			t.Fatalf("ParseURL(%q) = %q, which is refused: %v", s, u, err)
		}
		if *u != *v {
			t.Errorf("ParseURL(%q) = %q, read again %q", s, u, v)
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Host == "") == (socket(u) == "") || strings.HasSuffix(u.Path, "/") {
			t.Errorf("ParseURL(%q) = %#v", s, u)
		}
	})
}

func TestSpec(t *testing.T) {
	tests := []struct{ spec, want string }{
		{`{"url":"http://h"}`, ""},
		{`{"url":"http://h","worker_type":"regular","connection_mode":"http","runtime":"vllm","priority":1,"cost":0.5,"labels":{"a":"b"},"api_key":"k","bootstrap_port":8998,"max_connection_attempts":3}`, ""},
		{`{"url":"http://h","models":[{"id":"m","aliases":["n"],"context_length":4096}],"health":{"timeout_secs":1,"disable_health_check":true},"resilience":{"cb_failure_threshold":1,"disable_circuit_breaker":false}}`, ""},
		{`{"url":"http://h","provider":null,"kv_role":null,"http_pool":null}`, ""},
		{`{}`, "'worker_url'"},
		{`{"url":"http://h","worker_type":"prefill"}`, "'worker_type': prefill - not supported yet"},
		{`{"url":"http://h","worker_type":"boss"}`, "'worker_type': boss - unknown; want regular"},
		{`{"url":"http://h","connection_mode":"grpc"}`, "'connection_mode': grpc - not supported yet"},
		{`{"url":"grpc://h"}`, "not supported yet"},
		{`{"url":"http://h","runtime_type":"external"}`, "'runtime_type': external - not supported yet"},
		{`{"url":"http://h","provider":"openai"}`, "'provider': openai - not supported yet"},
		{`{"url":"http://h","kv_connector":"nixl"}`, "'kv_connector'"},
		{`{"url":"http://h","http_pool":{"timeout_secs":1}}`, "'http_pool'"},
		{`{"url":"http://h","resilience":{"max_retries":1}}`, "'resilience.max_retries': set - not supported yet"},
		{`{"url":"http://h","resilience":{"cb_failure_threshold":0}}`, "'resilience.cb_failure_threshold': 0 - want 1 or more"},
		{`{"url":"http://h","health":{"check_interval_secs":0}}`, "'health.check_interval_secs': 0 - want 1 or more"},
		{`{"url":"http://h","health":{"timeout_secs":9223372036854775807}}`, "'health.timeout_secs'"},
		{`{"url":"http://h","api_key":"a\r\nX: y"}`, "'api_key'"},
		{`{"url":"http://h","models":[{"id":""}]}`, "'models'"},
		{`{"url":"http://h","models":[{"id":"a\nb"}]}`, "'models'"},
		{`{"url":"http://h","labels":{"":"x"}}`, "'labels'"},
		{`{"url":"http://h","bootstrap_port":70000}`, "'bootstrap_port'"},
		{`{"url":"http://h","cost":-1}`, "'cost'"},
		{`{"url":"x","cost":-1}`, "'cost'"}, // all faults at once
	}
	for _, tt := range tests {
		var s Spec
		if err := json.Unmarshal([]byte(tt.spec), &s); err != nil {
			t.Fatalf("%s: %v", tt.spec, err)
		}
		err := s.Validate()
		switch {
		case err == nil && tt.want != "":
			t.Errorf("%s: accepted, want %q", tt.spec, tt.want)
		case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.spec, err, tt.want)
		}
	}
}

func TestSpecOverSettings(t *testing.T) {
	var s Spec
	if err := json.Unmarshal([]byte(`{"url":"http://h","health":{"timeout_secs":7,"drain_settle_secs":0},"resilience":{"cb_timeout_secs":9,"disable_circuit_breaker":true}}`), &s); err != nil {
		t.Fatal(err)
	}
	h, settle := s.Health.apply(DefaultHealthConfig(), 5*time.Second)
	want := DefaultHealthConfig()
	want.Timeout = 7 * time.Second
	if h != want || settle != 0 {
		t.Errorf("health %+v, settle %v; want %+v, 0", h, settle, want)
	}
	wb := breaker.DefaultConfig()
	wb.Rest, wb.Disabled = 9*time.Second, true
	if got := s.breaker(breaker.DefaultConfig()); got != wb {
		t.Errorf("breaker %+v, want %+v", got, wb)
	}
	m := s.Health.merge(&HealthSpec{TimeoutSecs: ptr(8), Disable: ptr(true)})
	if *m.TimeoutSecs != 8 || !*m.Disable || *m.DrainSettleSecs != 0 || *s.Health.TimeoutSecs != 7 {
		t.Errorf("merged %+v", m)
	}
}
