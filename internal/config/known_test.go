package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Every flag takes the values that belong to it, and what follows still counts.
func TestArity(t *testing.T) {
	example := map[string]string{"string": "x", "int": "1", "float": "1.5", "secret": "k", "bool": ""}
	for _, f := range knownFlags() {
		for _, name := range append([]string{f.name}, f.aliases...) {
			if f.name == "port" || f.name == flagConfig {
				continue
			}
			v := example[f.typ]
			tails := map[arity][][]string{none: {{}, {"=true"}}, one: {{v}, {"=" + v}}, any0: {{}, {v}, {v, v, v}, {"=" + v}}, any1: {{v}, {v, v}, {"=" + v}}}[f.arity]
			if f.numeric {
				tails = append(tails, []string{"-1"})
			}
			for _, tail := range tails {
				args := append([]string{"--" + name}, tail...)
				if len(tail) == 1 && strings.HasPrefix(tail[0], "=") {
					args = []string{"--" + name + tail[0]}
				}
				args = append(args, "--port", "1")
				var faults Faults
				p := parseArgs(args, &faults)
				if n := len(p.out); n == 0 || p.out[n-1].where != "--port" || p.out[n-1].values[0] != "1" {
					t.Errorf("%q does not set the port: %v", args, faults.List)
				}
				var want []string
				if !f.built() {
					want = []string{"--" + name + " is not supported yet"}
				}
				if !slices.Equal(faults.List, want) {
					t.Errorf("%q: faults %q, want %q", args, faults.List, want)
				}
			}
		}
	}
}

// differs has the flags whose default is not the contract's, with the reason.
var differs = map[string]string{
	"policy":                     "cache_aware is not built",
	"backend":                    "workers say what they are; the Rust program has no default either",
	"worker-overload-protection": "the launcher's None means that it is on",
	"request-id-headers":         "the launcher's None stands for the same four headers",
}

// The structs' tags say the same of a flag as the contract's table.
func TestStructsAgreeWithContract(t *testing.T) {
	d := Default()
	for _, r := range rows() {
		f := flagNamed()[r.name]
		if f == nil {
			t.Errorf("--%s of flags.tsv is not known", r.name)
			continue
		}
		if f.name != r.name { // another name of a flag, or the name of its opposite
			continue
		}
		names := append([]string{f.name}, f.aliases...)
		for _, a := range split(r.aliases) {
			if !slices.Contains(names, a) {
				t.Errorf("--%s has no alias --%s", r.name, a)
			}
		}
		if f.typ != r.typ {
			t.Errorf("--%s is %s, want %s", r.name, f.typ, r.typ)
		}
		if f.field == nil {
			continue
		}
		if (r.values == "0") != (f.field.kind == boolean) || (r.action == "list" || r.action == "append") != f.field.kind.list() {
			t.Errorf("--%s takes %s values, and its setting is %s", r.name, r.values, f.field.wants())
		}
		for _, c := range split(r.choices) {
			if len(f.field.choices) > 0 && !slices.Contains(f.field.choices, c) {
				t.Errorf("--%s does not allow %s", r.name, c)
			}
		}
		got := fmt.Sprint(f.field.value(d))
		want := map[string]string{"": "", "False": "false", "True": "true"}[r.def]
		if want == "" {
			want = r.def
		}
		if r.typ == "float" {
			want = strings.TrimSuffix(want, ".0")
		}
		if same := got == want || want == "" && slices.Contains([]string{"0", "false", "[]"}, got); !same && differs[r.name] == "" {
			t.Errorf("--%s is %s by default, want %s", r.name, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	last := ""
	for _, r := range rows() {
		if r.name <= last {
			t.Errorf("%s stands after %s", r.name, last)
		}
		last = r.name
		for _, n := range append([]string{r.name}, split(r.aliases)...) {
			if seen[n] || n != strings.ToLower(n) || strings.ContainsAny(n, "_= ") || strings.HasPrefix(n, "-") {
				t.Errorf("the name %q is not plain, or stands twice", n)
			}
			seen[n] = true
		}
		if !slices.Contains([]string{"string", "int", "float", "bool", "secret"}, r.typ) || !slices.Contains([]string{"0", "1", "*", "+"}, r.values) ||
			!slices.Contains([]string{"set", "one", "list", "append"}, r.action) || (r.typ == "bool") != (r.values == "0") {
			t.Errorf("%s: type %s, values %s, action %s", r.name, r.typ, r.values, r.action)
		}
	}
	if len(rows()) < 200 {
		t.Errorf("%d flags, want the contract's 212 and more", len(rows()))
	}
	// Spot checks of spellings that only one of the contract's programs has.
	for _, n := range []string{"eviction-interval", "eviction-interval-secs", "postgres-pool-max", "postgres-pool-max-size", "redis-pool-max-size", "oracle-dsn", "oracle-user",
		"oracle-username", "webrtc-bind-addr", "webrtc-stun-server", "tenant-api-key", "tenant-header-name", "jwt-role-claim", "disable-audit-logging", "engine-metrics",
		"runtime-worker-threads", "drain-settle-secs", "cache-match-threshold", "spill-abs-threshold", "sticky-key-idle-secs", "model"} {
		if flagNamed()[n] == nil {
			t.Errorf("--%s is not known", n)
		}
	}
}

// A setting that cannot be found in --help or documented is half a setting.
func TestFieldsAreWhole(t *testing.T) {
	paths := make(map[string]bool)
	for _, f := range fields() {
		if f.help == "" || len(f.flags) == 0 || paths[f.path()] {
			t.Errorf("%s has help %q, flags %q, or stands twice", f.path(), f.help, f.flags)
		}
		if len(f.negative) > 0 && f.kind != boolean {
			t.Errorf("%s has a negative flag and is %s", f.path(), f.wants())
		}
		if serviceLink.MatchString(f.env()) {
			t.Errorf("%s looks like one of Kubernetes's", f.env())
		}
		paths[f.path()] = true
	}
}

func TestNearest(t *testing.T) {
	names := []string{"port", "prometheus-port", "prometheus-host", "host", "worker-urls", "retry-max-retries"}
	f := func(in, want string) {
		t.Helper()
		if got := Nearest(in, names); got != want {
			t.Errorf("nearest to %q: %q, want %q", in, got, want)
		}
	}
	f("prot", "port")
	f("PORT", "port")
	f("hots", "host")
	f("worker-url", "worker-urls")
	f("wroker-ursl", "worker-urls")
	f("retry", "retry-max-retries")
	f("prometheus", "prometheus-port")
	f("foo", "")
	f("x", "")
	f("", "")
	f(strings.Repeat("p", 1000), "")
}

func TestDistance(t *testing.T) {
	f := func(a, b string, want int) {
		t.Helper()
		for _, got := range []int{distance(a, b), distance(b, a)} {
			if got != want {
				t.Errorf("from %q to %q: %d, want %d", a, b, got, want)
			}
		}
	}
	f("", "", 0)
	f("", "abc", 3)
	f("port", "prot", 1)
	f("port", "ports", 1)
	f("port", "bort", 1)
	f("kitten", "sitting", 3)
	f("ca", "abc", 3)
}
