package config

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/policy"
)

// words takes a line apart as a shell does, single quotes included.
func words(line string) []string {
	var l []string
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		var w strings.Builder
		for line != "" && line[0] != ' ' {
			if in, rest, ok := strings.Cut(line[1:], "'"); line[0] == '\'' && ok {
				w.WriteString(in)
				line = rest
				continue
			}
			w.WriteByte(line[0])
			line = line[1:]
		}
		l = append(l, w.String())
	}
	return l
}

// files makes a readFile of one file.
func files(name, text string) func(string) ([]byte, error) {
	return func(n string) ([]byte, error) {
		if n != name || text == "" {
			return nil, &fs.PathError{Op: "open", Path: n, Err: fs.ErrNotExist}
		}
		return []byte(text), nil
	}
}

// load runs Load and writes what it says: for each setting that is not at its
// default, its path, value and origin; else the faults.
func load(t *testing.T, args, env, file string) string {
	t.Helper()
	c, o, err := Load(words(args), words(env), files("s.yaml", file))
	if err != nil {
		var f *Faults
		if !errors.As(err, &f) || len(f.List) == 0 || c != nil || o != nil {
			t.Fatalf("Load returned %v, %v, %#v; want an error of *Faults alone", c, o, err)
		}
		return err.Error() + "\n"
	}
	if err := c.Validate(); err != nil {
		t.Errorf("what Load returned is not valid: %v", err)
	}
	var b strings.Builder
	for _, f := range fields() {
		if o.Of(f.path()) != "default" {
			b.WriteString(f.path() + " " + f.text(c) + " (" + o.Of(f.path()) + ")\n")
		} else if f.text(c) != f.text(Default()) {
			t.Errorf("%s is %s, and its origin the default", f.path(), f.text(c))
		}
	}
	return b.String()
}

type loadCase struct {
	name, args, env, file string
	want                  string
}

func runLoad(t *testing.T, tests []loadCase) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, want := load(t, tt.args, tt.env, tt.file), strings.TrimPrefix(tt.want, "\n")
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("args %s\nenv %s\nfile %s\n(-want +got)\n%s", tt.args, tt.env, tt.file, d)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	runLoad(t, []loadCase{
		{name: "nothing given is valid"},
		{name: "value apart", args: "--port 8080", want: "server.port 8080 (flag --port)\n"},
		{name: "value joined", args: "--port=8080", want: "server.port 8080 (flag --port)\n"},
		{name: "underscores", args: "--retry_max-retries 2", want: "retry.max_retries 2 (flag --retry-max-retries)\n"},
		{name: "underscores stay in values", args: "--log-dir=/a_b", want: "log.dir /a_b (flag --log-dir)\n"},
		{name: "the last of a scalar holds", args: "--port 1 --port=2 --port 3", want: "server.port 3 (flag --port)\n"},
		{name: "a value may hold =", args: "--log-dir=a=b", want: "log.dir a=b (flag --log-dir)\n"},
		{name: "switch", args: "--log-json --port 1", want: "server.port 1 (flag --port)\nlog.json true (flag --log-json)\n"},
		{name: "switch off", args: "--log-json --log-json=false", want: "log.json false (flag --log-json)\n"},
		{name: "list", args: "--worker-urls http://a:1 http://b:1 --port 1", want: `
server.port 1 (flag --port)
workers.worker_urls http://a:1 http://b:1 (flag --worker-urls)
`},
		{name: "lists accumulate", args: "--worker-urls http://a:1 --port 1 --worker_urls=http://b:1 --worker-urls http://c:1 http://d:1", want: `
server.port 1 (flag --port)
workers.worker_urls http://a:1 http://b:1 http://c:1 http://d:1 (flag --worker-urls)
`},
		{name: "an empty list", args: "--request-id-headers --port 1", want: `
server.port 1 (flag --port)
access.request_id_headers  (flag --request-id-headers)
`},
		{name: "append takes one each", args: "--model-alias a=m --model-alias b=m", want: "routing.model_aliases a=m b=m (flag --model-alias)\n"},
		{name: "keys of tenants", args: "--tenant-api-key a:1 --port 1 --tenant-api-key=b:2 --trust-tenant-header --tenant_header_name x-team", want: `
server.port 1 (flag --port)
auth.tenant_api_keys **** **** (flag --tenant-api-key)
auth.trust_tenant_header true (flag --trust-tenant-header)
auth.tenant_header_name x-team (flag --tenant-header-name)
`},
		{name: "modules for tenants", args: "--enable-wasm --wasm-module m=/m.wasm;tenants=ac* n=/n.wasm;tenants=* --tenant-api-key acme:1", want: `
auth.tenant_api_keys **** (flag --tenant-api-key)
wasm.enable true (flag --enable-wasm)
wasm.modules m=/m.wasm;tenants=ac* n=/n.wasm;tenants=* (flag --wasm-module)
`},
		{name: "modules for tenants that a header names", args: "--enable-wasm --wasm-module m=/m.wasm;tenants=acme --trust-tenant-header", want: `
auth.trust_tenant_header true (flag --trust-tenant-header)
wasm.enable true (flag --enable-wasm)
wasm.modules m=/m.wasm;tenants=acme (flag --wasm-module)
`},
		{name: "numbers", args: "--prometheus-duration-buckets 0.1 1 2.5e1 --port 1", want: `
server.port 1 (flag --port)
metrics.duration_buckets 0.1 1 25 (flag --prometheus-duration-buckets)
`},
		{name: "seconds and milliseconds", args: "--request-timeout-secs 60 --retry-initial-backoff-ms 60", want: `
retry.request_timeout_secs 60 (flag --request-timeout-secs)
retry.initial_backoff_ms 60 (flag --retry-initial-backoff-ms)
`},
		{name: "alias", args: "--runtime vllm", want: "workers.backend vllm (flag --runtime)\n"},
		{name: "alias that keeps the sense", args: "--no-worker-auto-recovery", want: "workers.remove_unhealthy true (flag --no-worker-auto-recovery)\n"},
		{name: "alias that turns the sense", args: "--worker-auto-recovery", want: "workers.remove_unhealthy false (flag --worker-auto-recovery)\n"},
		{name: "turned twice", args: "--no-remove-unhealthy-workers=false", want: "workers.remove_unhealthy true (flag --no-remove-unhealthy-workers)\n"},
		{name: "several models are always served", args: "--enable-igw --port 1", want: "server.port 1 (flag --port)\n"},
		{name: "an empty value", args: "--log-dir ''", want: "log.dir  (flag --log-dir)\n"},
		{name: "a dash is a value", args: "--log-dir -", want: "log.dir - (flag --log-dir)\n"},
		{name: "a line of the reference", args: "--worker-urls http://w1:8000 http://w2:8000 --policy round_robin --host 127.0.0.1 --port 30001 --prometheus-port 0 --log-level warn --cb-failure-threshold 5 --disable-health-check", want: `
server.host 127.0.0.1 (flag --host)
server.port 30001 (flag --port)
workers.worker_urls http://w1:8000 http://w2:8000 (flag --worker-urls)
health.disable true (flag --disable-health-check)
breaker.failure_threshold 5 (flag --cb-failure-threshold)
policy.name round_robin (flag --policy)
log.level warn (flag --log-level)
metrics.port 0 (flag --prometheus-port)
`},
	})
}

// known is what a message says of the policies that there are.
var known = strings.Join(policy.Names(), ", ")

func TestBadFlags(t *testing.T) {
	runLoad(t, []loadCase{
		{name: "swapped letters", args: "--prot 1", want: "unknown flag --prot; did you mean --port?\n"},
		{name: "nothing like it", args: "--zzzzzzzzzzzz 1 2 3", want: "unknown flag --zzzzzzzzzzzz\n"},
		{name: "abbreviated", args: "--prometheus-p 1", want: "unknown flag --prometheus-p; did you mean --prometheus-port?\n"},
		{name: "too long", args: "--worker-urlsss http://a:1", want: "unknown flag --worker-urlsss; did you mean --worker-urls?\n"},
		{name: "underscores in it", args: "--worker_url=http://a:1", want: "unknown flag --worker_url; did you mean --worker-urls?\n"},
		{name: "one dash", args: "-port 1", want: "unknown flag -port; did you mean --port?\n"},
		{name: "one letter", args: "-p 1", want: "unknown flag -p; did you mean --port?\n"},
		{name: "nothing but dashes", args: "--=3 ---", want: "unknown flag --\nunknown flag ---\n"},
		{name: "three dashes", args: "---port 1", want: "unknown flag ---port; did you mean --port?\n"},
		{name: "not printable", args: "--a\x1b[31m 1", want: "unknown flag \"--a\\x1b[31m\"\n"},
		{name: "no value at the end", args: "--port", want: "--port: want a value: an integer\n"},
		{name: "no value before a flag", args: "--host --port 1", want: "--host: want a value: a text\n"},
		{name: "no value of many", args: "--prometheus-duration-buckets --port 1", want: "--prometheus-duration-buckets: want at least one value\n"},
		{name: "not an integer", args: "--port 80a --health-check-interval-secs 1.5", want: `
--port: want an integer, got "80a"
--health-check-interval-secs: want an integer of seconds, got "1.5"
`},
		{name: "an integer too large", args: "--port 99999999999999999999 --request-timeout-secs 9999999999999", want: `
--port: want an integer, got "99999999999999999999", which is too large
--request-timeout-secs: want an integer of seconds, got "9999999999999", which is too large
`},
		{name: "not a number", args: "--retry-jitter-factor nan --prometheus-duration-buckets 1 x", want: `
--retry-jitter-factor: want a number, got "nan"
--prometheus-duration-buckets: want a number, got "x"
`},
		{name: "negative numbers are values", args: "--port -1 --retry-jitter-factor -.5", want: `
port -1 is not between 0 and 65535 (flag --port)
retry-jitter-factor must be between 0 and 1 (flag --retry-jitter-factor)
`},
		{name: "not a choice", args: "--log-level loud", want: "--log-level: want one of debug, info, warn, error, got \"loud\"\n"},
		{name: "not a switch's value", args: "--log-json=yes", want: "--log-json: want true or false, got \"yes\"\n"},
		{name: "a switch takes no value apart", args: "--log-json true", want: "stray argument \"true\"; --log-json takes no value, or =true or =false\n"},
		{name: "one value too many", args: "--port 1 2", want: "stray argument \"2\"; --port takes one value\n"},
		{name: "joined lists take one value", args: "--worker-urls=http://a:1 http://b:1", want: "stray argument \"http://b:1\" after --worker-urls\n"},
		{name: "nothing before it", args: "http://a:1 --port 1", want: "stray argument \"http://a:1\"; settings are flags, which begin with --\n"},
		{name: "-- ends the flags", args: "--port 1 -- --host", want: "stray argument \"--host\"; settings are flags, which begin with --\n"},
		{name: "several models cannot be turned off", args: "--enable-igw=false", want: "--enable-igw=false: serving several models is always on\n"},
		{name: "not there", args: "--config no.yaml", want: "--config: reading no.yaml: file does not exist\n"},
		{name: "a name that is not printable", args: "--config a\x1b", want: "--config: reading \"a\\x1b\": file does not exist\n"},
		{name: "an empty file name", args: "--config=", want: "--config: want the name of a file\n"},
		{name: "a file without a name", args: "--config --port 1", want: "--config: want a value: the name of a file\n"},
		{name: "not supported yet, and what follows still counts", args: "--enable-mesh --prefill http://p:1 8998 --prefill http://q:1 none --decode http://d:1 --jwt-role-mapping a=b c=d --mesh_port 1 --port 99999", want: `
--enable-mesh is not supported yet
--prefill is not supported yet
--prefill is not supported yet
--decode is not supported yet
--jwt-role-mapping is not supported yet
--mesh-port is not supported yet
port 99999 is not between 0 and 65535 (flag --port)
`},
		{name: "an alias not supported yet", args: "--model /m --rate-limit-tokens-per-second", want: `
--model is not supported yet
--rate-limit-tokens-per-second is not supported yet
`},
		{name: "keys of tenants", args: "--api-key k --tenant-api-key a --tenant-api-key a: --tenant-api-key :1 --tenant-api-key a:k --tenant-api-key b:2 --tenant-api-key c:2", want: `
tenant-api-key: number 1 is not tenant:key (flag --tenant-api-key)
tenant-api-key: number 2 has no key behind its colon (flag --tenant-api-key)
tenant-api-key: number 3 has no tenant before its colon; want 1 to 128 visible ASCII characters, without a comma (flag --tenant-api-key)
tenant-api-key: number 4 is the same key as api-key, which is no tenant's (flag --api-key, flag --tenant-api-key)
tenant-api-key: number 6 has the same key as number 5 (flag --tenant-api-key)
`},
		{name: "an empty key of a tenant", args: "--tenant-api-key=", want: "tenant-api-key: number 1 is not tenant:key (flag --tenant-api-key)\n"},
		{name: "no key of a tenant", args: "--tenant-api-key --port 1", want: "--tenant-api-key: want a value: a list of texts\n"},
		{name: "a header that is none", args: "--trust-tenant-header --tenant-header-name 'x team'", want: "tenant-header-name: \"x team\" is not a header name (flag --tenant-header-name)\n"},
		{name: "a header that holds keys", args: "--tenant-header-name X-API-Key", want: "tenant-header-name: \"X-API-Key\" holds secrets, and tenants are logged (flag --tenant-header-name)\n"},
		{name: "a module for nobody", args: "--enable-wasm --wasm-module m=/m.wasm;tenants=acme,beta* --tenant-api-key Acme:1", want: `
wasm-module "m" is for tenants that no request is of; tenant-api-key and trust-tenant-header say which there are (flag --wasm-module, flag --tenant-api-key)
`},
		{name: "no policy at all", args: "--policy best", want: "unknown policy \"best\"; want one of " + known + " (flag --policy)\n"},
		{name: "a provider", args: "--backend openai", want: "backend \"openai\" is not supported yet: external providers are not built; use sglang or vllm (flag --backend)\n"},
		{name: "the same port twice", args: "--health-check-port 30000", want: "health-check-port and port are both 30000 (flag --health-check-port)\n"},
		{name: "metrics on the API's port", args: "--prometheus-port 30000", want: "prometheus-port and port are both 30000 on the same host (flag --prometheus-port)\n"},
		{name: "metrics on the health port", args: "--health-check-port 29000 --host 10.0.0.1", want: "prometheus-port and health-check-port are both 29000 on the same host (flag --health-check-port, flag --host)\n"},
		{name: "a list that falls", args: "--prometheus-duration-buckets 1 2 2", want: "prometheus-duration-buckets: 2 after 2; the bounds must be positive and rising (flag --prometheus-duration-buckets)\n"},
		{name: "a scheme on the collector", args: "--otlp-traces-endpoint http://c:4317", want: "otlp-traces-endpoint \"http://c:4317\" is not host:port such as localhost:4317; it has no scheme and no path (flag --otlp-traces-endpoint)\n"},
		{name: "aliases", args: "--model-alias a=m --model-alias a=n --model-alias x --model-alias =y --model-alias b=a", want: `
model-alias "a" stands for both "m" and "n" (flag --model-alias)
model-alias "x" is not alias=model (flag --model-alias)
model-alias "=y" is not alias=model (flag --model-alias)
model-alias "b" stands for "a", which is itself an alias, of "m"; name the model (flag --model-alias)
`},
		{name: "a clash with a port that cannot be read is not told", args: "--port x --prometheus-port 30000", want: "--port: want an integer, got \"x\"\n"},
	})
}

// An argument that belongs to a key, or may, is not shown.
func TestSecretsStayHidden(t *testing.T) {
	const s = "hunter2"
	for _, args := range []string{
		"--api-key x " + s, "--api-key -" + s, "--api-key --" + s, "--api-key --" + s + "=1", "--apikey " + s, "--apikey=" + s, "-api-key=" + s,
		"--oracle-password -" + s, "--tenant-api-key --" + s, "--tenant-api-key a " + s, "--tenant-api-key a:" + s + " --tenant-api-key b:" + s, "--tenant-api-key " + s, "--tenant-api-key 'a: " + s + "'",
		"--api-key " + s + " --tenant-api-key a:" + s, "--tenant-api-key " + s + ":", "--control-plane-api-keys a b --x " + s, "--postgres-db-url x " + s,
		"--api-key ' " + s + " '", "--otlp-traces-endpoint http://u:" + s + "@c", "--worker-urls http://u:" + s + "@c --port x", "--prometheus-host u:" + s + "@c --log-level u:" + s + "@c",
	} {
		if got := load(t, args, "", ""); strings.Contains(got, s) {
			t.Errorf("%s shows the secret: %s", args, got)
		}
	}
	for _, file := range []string{
		"auth: {api_key: [" + s + "]}", "auth: {api_key: {a: " + s + "}}", "auth: {api_key: *" + s + "}", "auth: {api_key: ' " + s + "'}",
		"auth: {api_key: 7" + "}\nlog: " + s, "auth: " + s, "auth:\n  api_key: a: " + s, "auth:\n  api_key: @" + s, "auth:\n  api_key: \"" + s,
		"auth: {tenant_api_keys: " + s + "}", "auth: {tenant_api_keys: [{a: " + s + "}]}", "auth: {tenant_api_keys: [" + s + "]}", "auth:\n  tenant_api_keys:\n  - a: " + s,
		"auth:\n  api_key: !x " + s + "\n", "auth:\n  api_key:\n  - " + s, s,
	} {
		if got := load(t, "--config s.yaml", "", file); strings.Contains(got, s) {
			t.Errorf("%s shows the secret: %s", file, got)
		}
	}
	if got := load(t, "", "SLUICE_API_KEY=' "+s+"' SLUICE_ORACLE_PASSWORD="+s+" SLUICE_APIKEY="+s+" SLUICE_TENANT_API_KEY=a:1,"+s, ""); strings.Contains(got, s) {
		t.Errorf("the environment shows the secret: %s", got)
	}
	if got := load(t, "--api-key "+s, "", ""); got != "auth.api_key **** (flag --api-key)\n" {
		t.Errorf("got %s, want the mask", got)
	}
	if got := load(t, "--config s.yaml", "", "auth:\n  tenant_api_keys:\n  - acme:"+s+"\n  - 'beta:"+s+"-2'\n"); got != "auth.tenant_api_keys **** **** (file s.yaml:2)\n" {
		t.Errorf("got %s, want the masks", got)
	}
	if got := load(t, "", "SLUICE_TENANT_API_KEY=acme:"+s+",beta:2", ""); got != "auth.tenant_api_keys **** **** (env SLUICE_TENANT_API_KEY)\n" {
		t.Errorf("got %s, want the masks", got)
	}
}

func TestLayers(t *testing.T) {
	const file = "server:\n  port: 1\n  host: 10.0.0.1\nworkers:\n  worker_urls: [http://a:1]\n"
	runLoad(t, []loadCase{
		{name: "file", args: "--config s.yaml", file: file, want: `
server.host 10.0.0.1 (file s.yaml:3)
server.port 1 (file s.yaml:2)
workers.worker_urls http://a:1 (file s.yaml:5)
`},
		{name: "file by variable", env: "SLUICE_CONFIG=s.yaml", file: "server: {port: 1}", want: "server.port 1 (file s.yaml:1)\n"},
		{name: "--config goes before SLUICE_CONFIG", args: "--config s.yaml", env: "SLUICE_CONFIG=other.yaml", file: "server: {port: 1}", want: "server.port 1 (file s.yaml:1)\n"},
		{name: "variable over file", args: "--config s.yaml", env: "SLUICE_PORT=2 SLUICE_WORKER_URLS=http://b:1,http://c:1", file: file, want: `
server.host 10.0.0.1 (file s.yaml:3)
server.port 2 (env SLUICE_PORT)
workers.worker_urls http://b:1 http://c:1 (env SLUICE_WORKER_URLS)
`},
		{name: "flag over variable", args: "--config s.yaml --port 3 --worker-urls http://d:1", env: "SLUICE_PORT=2 SLUICE_WORKER_URLS=http://b:1", file: file, want: `
server.host 10.0.0.1 (file s.yaml:3)
server.port 3 (flag --port)
workers.worker_urls http://d:1 (flag --worker-urls)
`},
		{name: "a good flag does not hide a bad file", args: "--config s.yaml --port 3", file: "server: {port: x}", want: "s.yaml:1: server.port: want an integer, got a text\n"},
		{name: "an empty file", args: "--config s.yaml", file: "# nothing\n"},
		{name: "empty sections", args: "--config s.yaml", file: "server:\nlog: {}\n"},
		{name: "anchors", args: "--config s.yaml", file: "server:\n  port: &p 7\nmetrics:\n  port: 8\nworkers:\n  job_queue_capacity: *p\n", want: `
server.port 7 (file s.yaml:2)
workers.job_queue_capacity 7 (file s.yaml:6)
metrics.port 8 (file s.yaml:4)
`},
		{name: "variables of switches and secrets", env: "SLUICE_LOG_JSON=true SLUICE_API_KEY=k SLUICE_REMOVE_UNHEALTHY_WORKERS=FALSE SLUICE_ENABLE_IGW=true OTHER=1 SLUICE=1", want: `
auth.api_key **** (env SLUICE_API_KEY)
workers.remove_unhealthy false (env SLUICE_REMOVE_UNHEALTHY_WORKERS)
log.json true (env SLUICE_LOG_JSON)
`},
		{name: "an empty list by variable", env: "SLUICE_REQUEST_ID_HEADERS=", want: "access.request_id_headers  (env SLUICE_REQUEST_ID_HEADERS)\n"},
		{name: "Kubernetes's service links", env: "SLUICE_SERVICE_HOST=10.0.0.1 SLUICE_SERVICE_PORT=30000 SLUICE_SERVICE_PORT_HTTP=30000 SLUICE_PORT=tcp://10.0.0.1:30000 SLUICE_PORT_30000_TCP=tcp://10.0.0.1:30000 SLUICE_PORT_30000_TCP_PROTO=tcp SLUICE_PORT_30000_TCP_PORT=30000 SLUICE_PORT_30000_TCP_ADDR=10.0.0.1 SLUICE_METRICS_PORT=tcp://10.0.0.2:29000 SLUICE_METRICS_SERVICE_HOST=10.0.0.2 SLUICE_METRICS_SERVICE_PORT=29000 SLUICE_HEALTH_CHECK_PORT=udp://10.0.0.3:1"},
		{name: "bad variables", env: "SLUICE_PROT=1 SLUICE_PORT= SLUICE_RUNTIME=vllm SLUICE_ENABLE_MESH=true SLUICE_SERVICE_DISCOVERY_PORT=1 SLUICE_LOG_JSON=1 SLUICE_ENABLE_IGW=false SLUICE_JOB_QUEUE_CAPACITY=0", want: `
unknown variable SLUICE_PROT; did you mean SLUICE_PORT?
unknown variable SLUICE_RUNTIME; did you mean SLUICE_BACKEND?
SLUICE_ENABLE_MESH: --enable-mesh is not supported yet
SLUICE_SERVICE_DISCOVERY_PORT: --service-discovery-port is not supported yet
SLUICE_ENABLE_IGW: false; serving several models is always on
SLUICE_PORT: want an integer, got ""
SLUICE_LOG_JSON: want true or false, got "1"
job-queue-capacity 0 must be at least 1 (env SLUICE_JOB_QUEUE_CAPACITY)
`},
		{name: "a file that is not there", env: "SLUICE_CONFIG=no.yaml", want: "SLUICE_CONFIG: reading no.yaml: file does not exist\n"},
		{name: "all faults at once", args: "--config s.yaml --prot 1 --enable-mesh --cb-success-threshold 0", env: "SLUICE_LOG_LEVEL=x", file: "server:\n  host: nowhere\n  prt: 1\n", want: `
s.yaml:3: unknown key server.prt; did you mean server.port?
SLUICE_LOG_LEVEL: want one of debug, info, warn, error, got "x"
unknown flag --prot; did you mean --port?
--enable-mesh is not supported yet
host "nowhere" is not an IP address (file s.yaml:2)
cb-success-threshold must be at least 1 (flag --cb-success-threshold)
`},
	})
}

func TestFaultsAreBounded(t *testing.T) {
	var args []string
	for range 10_000 {
		args = append(args, "--nonsense")
	}
	_, _, err := Load(args, nil, nil)
	var f *Faults
	if !errors.As(err, &f) || len(f.List) != maxFaults {
		t.Errorf("ten thousand unknown flags gave %d faults, want %d", len(f.List), maxFaults)
	}
}

func TestMetricsHost(t *testing.T) {
	f := func(host, metrics, want string) {
		t.Helper()
		c := Default()
		c.Server.Host, c.Metrics.Host = host, metrics
		if got := c.MetricsHost(); got != want {
			t.Errorf("API on %s, metrics on %q: listens on %s, want %s", host, metrics, got, want)
		}
	}
	f("0.0.0.0", "", "0.0.0.0")
	f("127.0.0.1", "", "0.0.0.0")
	f("localhost", "", "0.0.0.0")
	f("::", "", "::")
	f("::1", "", "::")
	f("::1", "127.0.0.1", "127.0.0.1")
}

func TestPortClash(t *testing.T) {
	f := func(host, metrics string, want bool) {
		t.Helper()
		if got := meet(host, metrics); got != want {
			t.Errorf("one port on %s and %s clashes: %v, want %v", host, metrics, got, want)
		}
	}
	f("0.0.0.0", "0.0.0.0", true)
	f("127.0.0.1", "0.0.0.0", true)
	f("0.0.0.0", "127.0.0.1", true)
	f("::", "127.0.0.1", true)
	f("localhost", "127.0.0.1", true)
	f("localhost", "10.0.0.1", false)
	f("127.0.0.1", "10.0.0.1", false)
	f("127.0.0.1", "127.0.0.2", false)
	f("::ffff:10.0.0.1", "10.0.0.1", true)
}

func TestAliases(t *testing.T) {
	r := Routing{ModelAliases: []string{"a=m", "b=org/m=1", "a=m"}}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(map[string]string{"a": "m", "b": "org/m=1"}, r.Aliases()); d != "" {
		t.Error(d)
	}
}

// What a program sets is checked as what a user sets is.
func TestValidate(t *testing.T) {
	c := Default()
	c.Server.Port, c.Log.Level = -1, "loud"
	want := `port -1 is not between 0 and 65535
log-level "loud" is not one of debug, info, warn, error`
	if err := c.Validate(); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if err := Default().Validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
}

// Loading is part of the time from start to listening.
func BenchmarkLoad(b *testing.B) {
	args := words("--config s.yaml --worker-urls http://a:1 http://b:1 --policy round_robin --port 1 --prometheus-port 0 --log-level warn --cb-failure-threshold 5")
	file := files("s.yaml", "server: {host: 127.0.0.1}\nretry:\n  max_retries: 2\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Load(args, []string{"SLUICE_API_KEY=k"}, file); err != nil {
			b.Fatal(err)
		}
	}
}
