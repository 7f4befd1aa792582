# What can be done here; `make help` lists it. Needs Go and git only, except
# where a target says otherwise.

export CGO_ENABLED = 0

VERSION := $(shell git describe --tags --match 'v*' 2>/dev/null | sed 's/^v//')
LDFLAGS := -s -w $(if $(VERSION),-X sluice/internal/version.Version=$(VERSION))
FUZZTIME ?= 10s
BENCHTIME ?= 50ms
TOOLS    := $(CURDIR)/.tools
LINT     := $(TOOLS)/golangci-lint

.DEFAULT_GOAL := build
.PHONY: wasm-examples build demo test check fmt vet lint cross generated race bench fuzz perf perf-gates routing engine wasm-new wasm-oracle gen clean help

build: ## the program, as bin/sluice
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

demo: build ## a gateway and four simulated engines, to try it out
	@bin/sluice demo

test: ## every test, with the built program and real SDKs
	go test -timeout 20m ./...

check: fmt vet lint cross generated race ## everything that a change must pass

fmt: ## fail if gofmt would change a file
	@out=$$(gofmt -l cmd examples internal test tools); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }

vet: ## go vet
	go vet ./...

lint: $(LINT) ## the few rules of .golangci.yml (builds the linter once, in minutes)
	$(LINT) run ./...

$(LINT): tools/go.mod tools/go.sum
	cd tools && GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint

cross: ## it builds for the other systems
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/sluice
	GOOS=linux GOARCH=arm64 go build -o /dev/null ./cmd/sluice

generated: ## fail if a generated page is not fresh
	go test ./internal/config -run '^TestSettingsDoc$$'
	go test ./internal/app -run '^TestMetricsDoc$$'

race: ## every test under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 30m ./...

bench: ## the benchmarks of the hot path, each for BENCHTIME (50ms)
	go test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./internal/policy ./internal/route ./internal/fleet ./internal/kit/... \
	  ./internal/gate/... ./internal/server ./internal/backend/... ./internal/wasm/...

# go test sometimes fails with "context deadline exceeded" when the time is up
# and no input has failed (golang/go#75804, mended in Go 1.27).
fuzz: ## every fuzz target for FUZZTIME (10s)
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    out=$$(go test -run '^$$' -fuzz "^$$f\$$" -fuzzminimizetime 20x -fuzztime $(FUZZTIME) $$p 2>&1) \
	    || { echo "$$out" | grep -qx '    context deadline exceeded' && ! echo "$$out" | grep -qE 'Failing input|seed corpus'; } \
	    || { echo "$$out"; exit 1; }; \
	    echo "$$p $$f: $$(echo "$$out" | grep '^fuzz: elapsed' | tail -n 1)"; \
	  done; \
	done

perf: build ## what a request costs beside haproxy, nginx and a bare relay (Linux; needs gcc, haproxy, nginx); PERF=flags
	go run ./test/perf $(PERF)

perf-gates: build ## fail if a request or a stream costs more system calls, allocations or memory than it may (Linux; needs gcc, strace)
	go run ./test/perf gates

routing: ## policies under recorded sessions of agents, on the real data path (minutes, on a machine that does nothing else)
	SLUICE_ROUTING=1 go test -v -count=1 -timeout 30m -run '^TestBar$$' ./test/routing

engine: ## the tests before a real llama.cpp (needs python3 with venv and pip)
	test/engine/run.sh

wasm-examples: build ## build the modules of examples/wasm anew (needs rustc with wasm32-unknown-unknown, clang, wasm-ld)
	@for e in examples/wasm/*/build.sh; do SLUICE=$(CURDIR)/bin/sluice $$e || exit 1; done
	go test ./examples/wasm -update

wasm-new: ## what sluice wasm new writes, built by real compilers and asked (needs rustc, clang, npm; says what is skipped)
	SLUICE_NEW_MODULES=1 go test -v -count=1 -run '^(TestNewModulesAreBuilt|TestJavaScriptHasWhatItNeeds)$$' ./test/e2e

wasm-oracle: wasm-new ## WebAssembly modules in wasmtime and in ours: the same input, the same answer (needs a C compiler; says so if it is skipped)
	test/wasm/run.sh

gen: ## write the generated pages: docs/settings.md, docs/metrics.md
	go test ./internal/config -run '^TestSettingsDoc$$' -update
	go test ./internal/app -run '^TestMetricsDoc$$' -update

clean: ## remove what was built
	rm -rf bin .tools

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
