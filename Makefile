# The only entry point. `make help` lists the targets; the README's two are `make lab` and `make test`.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

MODULES  := proto libcalico felix bgpd confd-templates libnetwork-plugin calico-node calicoctl test
PROGRAMS := calicoctl calico-felix bgpd confd libnetwork-plugin calico-node
VERSION  ?= v0.1.0
COMMIT   := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
DATE     := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
STAMP    := calico.internal/libcalico/version
LDFLAGS  := -s -w -X $(STAMP).Version=$(VERSION) -X $(STAMP).Commit=$(COMMIT) -X $(STAMP).BuildDate=$(DATE)
GO       := go
TOOLS    := .build/tools

export VERSION
# grpc's trace pages need html/template, which keeps every method of every type in a program: 4 MB of each.
export GOFLAGS ?= -buildvcs=false -tags=grpcnotrace

# Packages whose tests make network namespaces, and the rest of the modules but for the system tests.
NETTEST     := calico.internal/libcalico/nettest
list_tests   = $(GO) list -f '{{$$n := false}}{{range .TestImports}}{{if eq . "$(NETTEST)"}}{{$$n = true}}{{end}}{{end}}{{range .XTestImports}}{{if eq . "$(NETTEST)"}}{{$$n = true}}{{end}}{{end}}{{if eq $$n $(1)}}{{.ImportPath}}{{end}}' work | grep -v -E '^calico.internal/(test|proto)(/|$$)'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## --- build

.PHONY: deps
deps: ## install the Debian packages that build, lab and tests need
	@tools/deps.sh

.PHONY: build
build: ## all programs, static, into bin/
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ \
	  ./calicoctl/cmd/calicoctl ./felix/cmd/calico-felix ./bgpd/cmd/bgpd ./confd-templates/cmd/confd ./libnetwork-plugin/cmd/libnetwork-plugin ./calico-node/cmd/calico-node \
	  ./test/cmd/probe ./test/cmd/holder
	@echo "built $(VERSION) in bin/: $(PROGRAMS)"

# The root file systems come from Debian packages and take the network and one core; the programs are compiled beside them.
# An end of make, also by Ctrl-C, ends both.
# ENGINE is the engine of the lab's hosts: 26 (Debian trixie's), 28 (forky's), 20.10 (bookworm's, with a cluster store).
ENGINE     ?= 26
LAB_IMAGES := base workload etcd lab-host@$(ENGINE) node
build_images = set -m; images/build.sh --version $(VERSION) --rootfs-only $(1) & rootfs=$$!; set +m; trap "kill -- -$$rootfs 2>/dev/null || true" EXIT; $(MAKE) --no-print-directory build && wait $$rootfs && images/build.sh --version $(VERSION) $(1)

.PHONY: images
images: deps ## container images calico/<name>:$(VERSION)
	@$(call build_images,)

## --- the lab

.PHONY: lab
lab: deps ## the reference experiment and a day of a node on three Docker hosts (ENGINE=26|28|20.10); stays up
	@$(call build_images,$(LAB_IMAGES))
	@ENGINE=$(ENGINE) $(GO) run ./test/cmd/lab up

.PHONY: lab-down
lab-down: ## remove the lab without trace
	@$(GO) run ./test/cmd/lab down

## --- tests

# How long the tests of one package may take.
TEST_TIMEOUT ?= 20m

.PHONY: test
test: deps test-unit test-net test-system ## all tests: unit, kernel, system

# A program with the race detector sleeps for a second at its end, to hear of late races;
# the scripts of calicoctl run hundreds of programs. Most tests wait more than they compute.
.PHONY: test-unit
test-unit: ## unit tests with the race detector; no privileges
	@echo "== unit tests"
	@GORACE=atexit_sleep_ms=20 CGO_ENABLED=1 $(GO) test -race -p 4 -timeout $(TEST_TIMEOUT) $$($(call list_tests,false))

.PHONY: test-net
test-net: ## kernel tests in network namespaces of their own; root
	@echo "== kernel tests"
	@rc=0; $(GO) test -p 1 -timeout $(TEST_TIMEOUT) $$($(call list_tests,true)) || rc=$$?; \
	  $(MAKE) --no-print-directory build && $(GO) test -p 1 -timeout $(TEST_TIMEOUT) ./test/internal/... ./test/net/... ./test/faults/... || rc=$$?; \
	  exit $$rc

.PHONY: test-faults
test-faults: build ## the tables of test/faults/README.md, each with its result; ROW=n for one row
	@$(GO) run ./test/cmd/faults $(ROW)

# Long counts: 1,000 starts, a million mutations, 100 flaps, 200 kills, ten minutes without etcd.
.PHONY: test-all
test-all: export CALICO_TEST_LONG := 1
test-all: ## make test with the counts that take long
	@$(MAKE) --no-print-directory test TEST_TIMEOUT=120m

.PHONY: test-system
test-system: images ## the lab and its failures on Docker
	@echo "== system tests"
	@CALICO_TEST_ENGINE=1 $(GO) test -count=1 -timeout $(TEST_TIMEOUT) ./calicoctl/internal/node/launch
	@ENGINE=$(ENGINE) $(GO) test -count=1 -timeout 40m ./test/system/...
	@$(GO) test -count=1 -timeout 30m -run 'TestEngines/^28$$' ./test/engines

# One test on one engine: make test-engines ONLY='^28$$/many'
.PHONY: test-engines
test-engines: deps ## the Docker plugin on real engines: 28, 26, 20.10 without and with a cluster store
	@$(call build_images,base workload etcd lab-host node)
	@echo "== engines"
	@$(GO) test -count=1 -v -timeout 90m -run 'TestEngines/$(ONLY)' ./test/engines

.PHONY: bench
bench: build ## every figure beside its floor, from one run
	@$(GO) test -run '^$$' -bench . -benchmem work | grep -v -E 'no test files|^(ok|PASS|goos|goarch)'

.PHONY: fuzz
fuzz: ## each fuzz target for 30 s
	@for pkg in $$($(GO) list work); do \
	  dir=$$($(GO) list -f '{{.Dir}}' $$pkg); \
	  for f in $$(grep -ohE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go 2>/dev/null | sed 's/^func //'); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime 30s $$pkg; \
	  done; \
	done

## --- hygiene

.PHONY: check
check: check-fmt lint test-unit test-net check-generate ## the one command before a commit

.PHONY: fmt
fmt: tools ## format all Go code
	@$(TOOLS)/gofumpt -w $(MODULES) && $(TOOLS)/goimports -local calico.internal -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

.PHONY: check-fmt
check-fmt: tools
	@bad=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs $(TOOLS)/gofumpt -l); \
	  if [ -n "$$bad" ]; then echo "not formatted (run make fmt):"; echo "$$bad"; exit 1; fi

# golangci-lint caches its findings by the paths of files; a cache of another checkout's
# would name files that are not there.
.PHONY: lint
lint: export GOLANGCI_LINT_CACHE := $(CURDIR)/.build/lint-cache
lint: tools $(TOOLS)/golangci-lint ## vet, golangci-lint and shellcheck
	@$(GO) vet work
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && ../$(TOOLS)/golangci-lint run --config ../.golangci.yml ./...); done
	@shellcheck $$(git grep -lE '^#!/(usr/)?bin/(env bash|sh)' -- ':!*.txtar' ':!*.go')

.PHONY: generate
generate: tools ## Go code from the .proto files
	@for p in felix bgpd libnetwork node; do \
	  protoc -I proto --plugin=$(TOOLS)/protoc-gen-go --plugin=$(TOOLS)/protoc-gen-go-grpc \
	    --go_out=proto --go_opt=module=calico.internal/proto \
	    --go-grpc_out=proto --go-grpc_opt=module=calico.internal/proto proto/$$p/v1/$$p.proto; \
	done

.PHONY: check-generate
check-generate: generate
	@git diff --exit-code -- proto || { echo "generated code differs: commit what make generate wrote"; exit 1; }

.PHONY: tools
tools: $(TOOLS)/.stamp
$(TOOLS)/.stamp: tools/go.mod
	@mkdir -p $(TOOLS) && cd tools && GOWORK=off $(GO) build -o ../$(TOOLS)/ tool && touch ../$@
$(TOOLS)/golangci-lint: tools/lint/go.mod
	@echo "building golangci-lint (some minutes, once)"
	@mkdir -p $(TOOLS) && cd tools/lint && GOWORK=off $(GO) build -o ../../$(TOOLS)/ tool

.PHONY: clean
clean: ## remove bin/ and .build/
	@rm -rf bin .build
