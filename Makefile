# TERO. "make help" lists what there is.
SHELL := /bin/bash
TOOLS := bin/tools
VM := bin/vm

# grpcnotrace leaves golang.org/x/net/trace out of every binary: tero-cli is 16.9 MB
# instead of 17.3 (8.2 instead of 11.4 where nothing else links net/http).
TAGS := grpcnotrace
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS := -s -w -X tero.internal/common/buildinfo.version=$(VERSION)
# tero is only the front, which starts at once; tero-cli has all commands.
COMMANDS := tero tero/tero-cli terod tero-init quantum-api quantum-cni
BINARIES := $(notdir $(COMMANDS))
FUZZTIME ?= 10s
# What the tests use: the firewall, a software TPM, the peers of the comparisons.
PACKAGES := gcc libc6-dev iproute2 iputils-ping nftables swtpm swtpm-tools crun runc skopeo libseccomp-dev openssl bsdutils \
  erofs-utils qemu-system-x86 e2fsprogs apparmor

.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install the Debian packages that the tests need, if any is missing
	@missing=""; for p in $(PACKAGES); do \
	  [ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -qq update && apt-get -qq -y --no-install-recommends install $$missing >/dev/null; fi

.PHONY: build
build: ## Build the binaries into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(COMMANDS))

.PHONY: examples
examples: ## Build the example programs and the example plugin into bin/examples/
	@mkdir -p bin/examples
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/examples/ ./examples/web ./examples/client ./examples/rogue ./examples/true
	GOOS=wasip1 GOARCH=wasm go build -trimpath -buildmode=c-shared -o bin/examples/nolatest.wasm ./examples/plugins/nolatest

.PHONY: kernel
kernel: $(VM)/kernel ## Fetch Debian's kernel into bin/vm/, for the tests on an emulated machine

# Only unpacked: installing it would make an initramfs and look for a boot loader.
KERNEL_FILES := ./boot/vmlinuz-* './lib/modules/*/modules.builtin' \
  $(foreach d,arch crypto drivers/block drivers/char drivers/net drivers/virtio fs lib net,'./lib/modules/*/kernel/$(d)/*')
$(VM)/kernel:
	@rm -rf $@.new && mkdir -p $@.new && cd $@.new && fetch() { \
	  name=$$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p') && \
	  apt-get -qq -o APT::Sandbox::User=root download $$name; } && \
	{ fetch || { apt-get -qq update && fetch; }; } && \
	dpkg-deb --fsys-tarfile *.deb | tar -x --wildcards $(KERNEL_FILES) && rm *.deb
	@mv $@.new $@

.PHONY: test
test: deps kernel build examples ## Run every test under the race detector (as root: the tests use the real kernel)
	@[ "$$(id -u)" = 0 ] || { echo "make test needs root: namespaces, nftables and cgroups are tested for real" >&2; exit 1; }
	go test -race -timeout 15m $$(go list ./... | grep -v /test/kernel$$)
	go test -timeout 20m ./test/kernel

.PHONY: vm
vm: deps kernel ## Run the core of the tests on Debian's kernel, emulated, with cgroup v2 alone
	go test -count=1 -timeout 20m -v ./test/kernel

.PHONY: e2e
e2e: deps build examples ## Run the end-to-end tests alone
	go test -race -count=1 -timeout 10m ./test/...

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## Lint and check the formatting
	$(TOOLS)/golangci-lint run --build-tags $(TAGS) ./...
	$(TOOLS)/golangci-lint fmt --diff ./...

.PHONY: check
check: generated lint ## Check everything that needs no root: what CI runs beside the tests
	go vet -tags $(TAGS) ./...
	go mod tidy -diff
	cd tools && go mod tidy -diff
	go test -count=1 .

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## Generate code from api/*.proto
	$(TOOLS)/buf lint
	$(TOOLS)/buf generate

.PHONY: generated
generated: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc # fails when generated code is out of date
	$(TOOLS)/buf lint
	@d=$$(mktemp -d) && trap 'rm -rf "$$d"' EXIT && $(TOOLS)/buf generate -o "$$d" && \
	diff <(cd "$$d/api" && find . -name '*.pb.go' | sort | xargs sha256sum) \
	     <(cd api && find . -name '*.pb.go' | sort | xargs sha256sum) || \
	{ echo 'generated code is out of date: run "make generate"' >&2; exit 1; }

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r f; do \
	  for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$f"); do \
	    echo "== $$t in $$(dirname $$f)"; go test -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME) "$$(dirname $$f)"; \
	  done; done

.PHONY: demo
demo: PACKAGES := iproute2 nftables
demo: deps build examples ## Show the whole path: run, prove, refuse (as root)
	go run ./test/demo -bin bin

# The peers that only the benchmarks need.
bench bench-runtime: PACKAGES += runc podman conmon containerd

.PHONY: bench
bench: deps build examples ## Measure, beside the peers, in one interleaved run (as root)
	go run ./test/bench -bin bin

.PHONY: bench-runtime
bench-runtime: deps build examples ## Measure starts and memory of the runtime beside crun, runc and Podman (as root)
	go run ./test/bench -bin bin -only runtime,memory

.PHONY: install
install: build ## Install the binaries into PREFIX (/usr/local)
	install -d $(DESTDIR)$(or $(PREFIX),/usr/local)/bin
	install -m 755 $(addprefix bin/,$(BINARIES)) $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/

.PHONY: clean
clean: ## Remove what was built (not the tools)
	rm -rf $(addprefix bin/,$(BINARIES)) $(VM)

# The tools are built once for each tools/go.sum: golangci-lint takes minutes.
TOOLS_KEY := $(TOOLS)/.key-$(shell sha256sum tools/go.sum | cut -c1-16)

$(TOOLS_KEY):
	@mkdir -p $(TOOLS) && rm -f $(TOOLS)/.key-* && touch $@

$(TOOLS)/%: $(TOOLS_KEY)
	cd tools && go build -o ../$(TOOLS)/ $$(go list -f '{{.ImportPath}}' tool | grep '/$*$$')
	@touch $@
