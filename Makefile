# make demo   shows it all on this machine, in namespaces of its own
# make test   sets up what the tests need and runs them in all lanes
# make help   lists the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
export PATH := $(PATH):/usr/sbin:/sbin

GO ?= go
DESTDIR ?=
CNI_BIN_DIR ?= /opt/cni/bin
BINDIR ?= /usr/local/bin
SHAREDIR ?= /usr/local/share
RT_PROTOS_DIR ?= /etc/iproute2/rt_protos.d
FUZZTIME ?= 10s
ARGS ?=
DEB_VERSION ?= 0~git$(shell git log -1 --format=%cd.%h --date=format:%Y%m%d 2>/dev/null)
IMAGE ?= cniblocks/cniblocks:latest
IMAGE_FROM ?= bin

# The directories of all Go modules. To the go command, "work" names all their packages; ./... are those of the first alone.
MODULES = $(shell $(GO) list -m -f '{{.Dir}}')

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := out/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)

GO_BUILD := CGO_ENABLED=0 $(GO) build -trimpath
LDFLAGS := -s -w
# Functions packed closer take 50 kB less. Where there is an entry of our own, see internal/base/start, the plugins start faster
# and the child that a DEL leaves behind is done before Go has started.
# That is tried with the Go releases named here; others link without it.
ENTRY_RELEASES := go1.26
PLUGINS_LDFLAGS = $(LDFLAGS) -funcalign=16 $(if $(and $(filter amd64,$(shell $(GO) env GOARCH)),$(filter $(addsuffix .%,$(ENTRY_RELEASES)) $(ENTRY_RELEASES),$(shell $(GO) env GOVERSION))),-E=github.com/cniblocks/cniblocks/internal/base/start.entry)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## bin/: one static executable under each plugin's name, and cniblocks
	@mkdir -p bin
	$(GO_BUILD) -ldflags "$(PLUGINS_LDFLAGS)" -o bin/.plugins ./plugins
	@for name in $$(bin/.plugins --list); do ln -f bin/.plugins "bin/$$name"; done; rm bin/.plugins
	$(GO_BUILD) -ldflags "$(LDFLAGS)" -o bin/dhcp ./plugins/dhcp/program
	$(GO_BUILD) -ldflags "$(LDFLAGS)" -o bin/cniblocks ./cmd/cniblocks
	@ls bin

# Where shells look below SHAREDIR; each path begins with the name of its shell.
COMPLETIONS := bash-completion/completions/cniblocks zsh/site-functions/_cniblocks fish/vendor_completions.d/cniblocks.fish

# Every file is put in place by one rename, so that a running node always has the old one or the new one.
.PHONY: install
install: build ## [DESTDIR=] [CNI_BIN_DIR=/opt/cni/bin] [BINDIR=/usr/local/bin] [SHAREDIR=/usr/local/share]
	@install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(RT_PROTOS_DIR)" $(foreach file,$(COMPLETIONS),"$(DESTDIR)$(SHAREDIR)/$(dir $(file))")
	@bin/cniblocks install --from bin/loopback --dir "$(DESTDIR)$(CNI_BIN_DIR)"
	@for file in $(CNI_BIN_DIR)/dhcp $(BINDIR)/cniblocks; do \
		new="$(DESTDIR)$${file%/*}/.cniblocks.$$$$"; install -m 755 "bin/$${file##*/}" "$$new"; mv -fT "$$new" "$(DESTDIR)$$file"; \
	done
	@printf '117\tcniblocks\n' > "$(DESTDIR)$(RT_PROTOS_DIR)/cniblocks.conf"
	@bin/cniblocks man "$(DESTDIR)$(SHAREDIR)/man"
	@for file in $(COMPLETIONS); do bin/cniblocks completion "$${file%%[-/]*}" > "$(DESTDIR)$(SHAREDIR)/$$file"; done

# The units are in place but not enabled: the agent needs /etc/cniblocks/agent.json first, and few networks have addresses from DHCP.
.PHONY: deb
deb: ## out/cniblocks_VERSION_ARCH.deb, by dpkg-deb
	@rm -rf out/deb && mkdir -p out/deb/DEBIAN
	@$(MAKE) --no-print-directory install DESTDIR=out/deb CNI_BIN_DIR=/opt/cni/bin BINDIR=/usr/bin SHAREDIR=/usr/share RT_PROTOS_DIR=/usr/share/iproute2/rt_protos.d >/dev/null
	@mv out/deb/usr/share/zsh/site-functions out/deb/usr/share/zsh/vendor-completions
	@install -d out/deb/usr/lib/systemd/system && for unit in cniblocks-agent.service cniblocks-dhcp.service cniblocks-dhcp.socket; do \
		sed 's|/usr/local/bin/|/usr/bin/|' "deploy/systemd/$$unit" > "out/deb/usr/lib/systemd/system/$$unit"; \
	done
	@install -d out/deb/usr/share/doc/cniblocks && install -m 644 docs/*.md LICENSE out/deb/usr/share/doc/cniblocks
	@arch=$$(dpkg --print-architecture); version=$(DEB_VERSION); \
	printf '%s\n' "Package: cniblocks" "Version: $$version" "Architecture: $$arch" "Section: net" "Priority: optional" \
		"Maintainer: The cniblocks authors <cniblocks@users.noreply.github.com>" "Recommends: nftables | iptables" \
		"Description: network plugins for containers, and a node agent" \
		" CNI plugins that attach containers to bridges and carry them between machines," \
		" and an agent that keeps a node in step with its peers." > out/deb/DEBIAN/control; \
	dpkg-deb -Zgzip --root-owner-group --build out/deb "out/cniblocks_$${version}_$$arch.deb"

# Only files that carry this module's path are ours.
.PHONY: uninstall
uninstall: ## removes what install put there, and nothing else
	@for file in "$(DESTDIR)$(CNI_BIN_DIR)"/* "$(DESTDIR)$(BINDIR)/cniblocks" "$(DESTDIR)$(SHAREDIR)"/man/man[58]/cniblocks* \
		$(foreach file,$(COMPLETIONS),"$(DESTDIR)$(SHAREDIR)/$(file)"); do \
		if [ -f "$$file" ] && grep -aqE 'github.com/cniblocks/cniblocks/(plugins|cmd)' "$$file"; then echo "removing $$file"; rm -f "$$file"; fi; \
	done
	@rm -f "$(DESTDIR)$(RT_PROTOS_DIR)/cniblocks.conf"

.PHONY: image
image: build ## [IMAGE=cniblocks/cniblocks:latest] the image of the node agent, by podman, or by docker where its daemon answers
	$$(docker info >/dev/null 2>&1 && echo docker || echo podman) build -f deploy/kubernetes/Dockerfile -t $(IMAGE) $(IMAGE_FROM)

.PHONY: kube
kube: ## builds the programs of Kubernetes that tests run, once, in five minutes
	$(GO) run ./test/kube/build

.PHONY: test
test: setup ## everything, in all lanes; ARGS="-no-vm ./veth" and the like for less
	$(GO) run ./test/ci -race=$$(command -v gcc >/dev/null && echo true || echo false) $(ARGS)

.PHONY: setup
setup: ## installs what the tests need, where it can
	@test/setup.sh

.PHONY: demo
demo: build ## two pods, a node and the outside world, in namespaces of their own
	$(GO) run ./test/demo $(ARGS)

.PHONY: demo-%
demo-%: build ## another demo, such as demo-overlay
	$(GO) run ./test/demo $(ARGS) $*

.PHONY: bench
bench: build ## our plugins beside the reference ones, in turns
	$(GO) run ./test/bench $(ARGS)

.PHONY: bench-path
bench-path: build ## the way of packets, beside the reference's and a bare veth pair
	$(GO) run ./test/bench/path $(ARGS)

.PHONY: crash
crash: ## every system call of every verb killed or failed, for half an hour; writes docs/reliability-crash.md; ARGS="-run ..."
	$(GO) test -count=1 -v -timeout 6h -parallel 4 ./test/crash -all -table $(CURDIR)/docs/reliability-crash.md $(ARGS)

# What runs in the virtual machine runs the plugins as they are built here: there it takes a minute to build them.
IN_VM = CGO_ENABLED=0 CNIBLOCKS_PLUGINS=$(CURDIR)/bin CNIBLOCKS_COMMAND=$(CURDIR)/bin/cniblocks $(GO) test -count=1 -v -timeout 2h -exec "$(CURDIR)/out/vm -limit 2h -w $(CURDIR)/docs"

.PHONY: vm
vm:
	CGO_ENABLED=0 $(GO) build -o out/vm ./test/vm

.PHONY: crash-vm
crash-vm: build vm ## the same for what few kernels have, some calls of each, in the virtual machine
	$(IN_VM) -run '/^(bridge,_VLAN|overlay,_(gre|ipip|geneve|wireguard))$$' ./test/crash -verbs -table $(CURDIR)/docs/reliability-crash.md $(ARGS)

.PHONY: soak
soak: ## 50000 calls at random, right ones, wrong ones and killed ones; ARGS="-operations=N -seed=N"
	$(GO) test -count=1 -v -timeout 4h -run TestWhateverIsCalled ./test/soak -for=0 -operations=50000 $(ARGS)

.PHONY: soak-vm
soak-vm: build vm ## 1600 calls at random, and two stops of each pair of calls, on the kernel of the virtual machine; ARGS="-seed=N"
	$(IN_VM) -p 1 -parallel 2 ./test/soak ./test/interleave $(ARGS)

.PHONY: outage
outage: ## etcd away for a minute while peers and the kernel change: routes, and memory before and after; ARGS="-away=10m"
	$(GO) test -count=1 -v -timeout 1h -run TestAStoreThatIsAway ./test/agent -away=60s $(ARGS)

.PHONY: lint
lint: $(GOLANGCI_LINT) ## golangci-lint, which runs go vet and staticcheck as well, over all modules
	$(GOLANGCI_LINT) run $(addsuffix /...,$(MODULES))

.PHONY: tidy
tidy: ## go mod tidy, in every module
	$(GO) run ./test/modules tidy

$(GOLANGCI_LINT):
	@mkdir -p out/tools
	GOBIN=$(CURDIR)/out/tools CGO_ENABLED=0 $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv out/tools/golangci-lint $@

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s)
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file func; do \
		echo "$${func#func } in $$(dirname "$$file")"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; \
	done

.PHONY: clean
clean: ## removes bin and out
	rm -rf bin out
