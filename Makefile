# Everything a person or a machine needs to do here, one word each: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# Debian packages beside the Swift toolchain; `make prerequisites` installs what is missing of them. The servers among them are run in guests by
# tests: a policy keeps them from starting here (invoke-rc.d(8)).
PACKAGES := make gcc libc6-dev musl-tools busybox-static libcap-dev strace \
  qemu-system-x86 kmod cpio dpkg-dev python3 util-linux \
  bc dc mawk perl sqlite3 xz-utils lz4 acpica-tools passt iproute2 \
  curl iperf3 libmemcached-tools memcached nginx-light redis-server redis-tools sockperf wrk
SWIFT_BUILD := swift build -c release
BIN := .build/release
IMAGES := $(patsubst images/%/,.build/images/%.elf,$(sort $(dir $(wildcard images/*/*.swift))))

.PHONY: all
all: build images guest-programs ## Build osv-run, the images and the guest test programs

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: prerequisites
prerequisites: ## Install the Debian packages that are missing (Swift itself must be there)
	@command -v swift > /dev/null || { echo "Swift 6.3 is needed first: see https://www.swift.org/install" >&2; exit 1; }
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q '^install ok' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing:" $$missing; \
	  policy=/usr/sbin/policy-rc.d; new=; \
	  if [ ! -e $$policy ]; then new=1; printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy > /dev/null; $$sudo chmod +x $$policy; fi; \
	  trap '[ -z "$$new" ] || $$sudo rm -f '$$policy EXIT; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing > /dev/null; \
	fi

.PHONY: build
build: ## Build .build/release/osv-run
	@$(SWIFT_BUILD) --product osv-run 2>&1 | { grep --line-buffered -v "Using 'dlopen' in statically linked" || true; }

.PHONY: images
images: .build/images/kernel.elf $(IMAGES) ## Build every folder under images/ into .build/images/NAME.elf, and the kernel alone

.build/images/kernel.elf: build
	@images/link.sh kernel $@

.build/images/%.elf: images/%/*.swift build
	@images/link.sh $* $@

.PHONY: guest-programs
guest-programs: ## Compile Tests/GuestPrograms in every flavour (glibc and musl; static, static-PIE, fixed)
	@$(MAKE) -s -j2 -f Tests/GuestPrograms/programs.mk

.PHONY: demo
demo: prerequisites all ## Install what is missing, build, and run the main job with explanations
	@images/demo.sh

.PHONY: test
test: prerequisites all ## Run every test: modules, devices, programs in VMs on both KVMs
	@swift test --disable-xctest 2>&1 | { grep --line-buffered -v "Using 'dlopen' in statically linked" || true; }

.PHONY: lint
lint: ## Check formatting, the layering of the modules, and that unsafe constructs say why they are sound
	@swift format lint --strict --recursive --configuration .swift-format Sources Tests Plugins images Benchmarks Fuzz Package.swift
	@Tests/Lint/layers.sh
	@Tests/Lint/safety.sh

.PHONY: format
format: ## Format every Swift file in place
	@swift format -i --recursive --configuration .swift-format Sources Tests Plugins images Benchmarks Fuzz Package.swift

.PHONY: fuzz
fuzz: ## Fuzz the parsers, the file server and the queues for FUZZ_SECONDS (10) each
	@Fuzz/run.sh

.PHONY: bench
bench: all ## Run every benchmark natively and in the guest; writes .build/bench/results.json, a table and a plot
	@Benchmarks/run.py

.PHONY: bench-check
bench-check: bench ## The same, and fail where a stored bar is missed
	@Benchmarks/run.py --check-only

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf .build
