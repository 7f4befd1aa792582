package fleet

import (
	"bytes"
	"errors"
	"strconv"
)

// errNoGauges says that metrics have nothing of load in them.
var errNoGauges = errors.New("the metrics do not tell the load")

// parseMetrics reads the load from an engine's metrics in Prometheus' text form,
// which is where vLLM tells it: counts are summed over its engines, the usage of
// the cache is their mean. Metrics without that usage are no report. What shows
// that an engine was started anew is read beside it.
func parseMetrics(b []byte) (*Load, error) {
	l := new(Load)
	usages := 0
	for line := range bytes.Lines(b) {
		name, value, ok := gauge(line)
		if !ok {
			continue
		}
		switch name {
		case "num_requests_running", "num_running_reqs":
			l.Running += count(value)
		case "num_requests_waiting", "num_queue_reqs":
			l.Waiting += count(value)
		case "gen_throughput":
			l.Throughput += positive(value)
		case "num_used_tokens":
			l.UsedTokens += int64(count(value))
		case "max_total_num_tokens":
			l.MaxTokens += int64(count(value))
		case "kv_cache_usage_perc", "gpu_cache_usage_perc", "token_usage":
			l.TokenUsage += share(value)
			usages++
		case "prompt_tokens_total", "generation_tokens_total":
			l.done, l.counts = l.done+positive(value), true
			continue
		case processStart:
			l.start = max(l.start, positive(value))
			continue
		default:
			continue
		}
		if value < 0 || value > mostTokens {
			return nil, errors.New("not a load report: a gauge is negative or absurd")
		}
	}
	if usages == 0 {
		return nil, errNoGauges
	}
	l.TokenUsage = min(l.TokenUsage/float64(usages), 1)
	return l, nil
}

// processStart is when a process began, in Unix seconds, as the client libraries of
// Prometheus call it.
const processStart = "process_start_time_seconds"

// gauge returns the name, without the engine's, and the value of a line of
// metrics that an engine has under its own name, or of processStart.
func gauge(line []byte) (name string, value float64, ok bool) {
	var rest []byte
	for _, engine := range []string{"vllm:", "sglang:", "sglang_"} {
		if rest, ok = bytes.CutPrefix(line, []byte(engine)); ok {
			break
		}
	}
	if !ok && !bytes.HasPrefix(line, []byte(processStart)) {
		return "", 0, false
	}
	rest = bytes.TrimSpace(rest)
	end := bytes.IndexAny(rest, "{ ")
	space := bytes.LastIndexAny(rest, " }")
	if end < 0 || space < end {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(string(bytes.TrimSpace(rest[space+1:])), 64)
	return string(rest[:end]), value, err == nil && value == value
}
