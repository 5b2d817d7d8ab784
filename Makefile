# What to type, on a Debian or Ubuntu machine with Go 1.26 or newer:
#
#   make build     bin/keyguard
#   make demo      the story of the README, told by the real programs      (as root)
#   make test      everything that must hold: deps, lint, the demo, unit tests, the race detector,
#                  fuzzing, packages and guests; at its end a table of what it
#                  cost, and again what failed                              (as root)
#   make package   dist/*.deb and dist/*.rpm, for amd64 and arm64
#   make release   from a checked out tag: packages, sources, what they are made of, changelog and
#                  sums in dist, the same byte by byte wherever it is done
#   make repository DIR=… KEY=… URL=…   put dist's packages into an apt and a dnf repository below
#                  DIR that a web server shows as URL, signed with a GnuPG key
#   make deps      install with apt-get what the rest needs and is not there (as root)
#   make clean     remove bin and dist; `make clean-guests` the guests' root directories
#
# and while working:
#
#   make check     before every commit: the source's form, and go test -short ./..., which
#                  leaves variants, and programs by the hundred, to make test: two minutes
#                  of processor time, on a busy machine
#   make unit      go test ./..., which is not brief; RUN='-run Name' and PKG=./agent/rows narrow it
#   make race      the same under the race detector, only what is played in volume briefly
#   make volume    what is played in volume, without it
#   make crashes   rotations and repairs that die at every step, in every way (minutes)
#   make worlds    simulated hosts with simulated accidents around the real code:
#                  SEED=1 N=20000 (a minute, on every core)
#   make mutants   plants the faults of agent/worlds/mutants.txt one by one, and has the
#                  worlds look for each: N=5000 of them at most (minutes)
#   make flips     turns each comparison, "and", "or" and sum of PKG=./agent/decide into
#                  another, and lists those that the package's tests (RUN=REGEXP) miss;
#                  ONLY=12,13 tries these alone
#   make soak      crashes and random histories for hours, ROUNDS=10 times as many, every
#                  byte of every connection, and SOAKTIME (5m) of every fuzz target
#   make fuzz      every fuzz target for FUZZTIME (30s) each
#   make bench     what is waited for, against its floors, as one table in ten minutes;
#                  WRITE=-write puts it into docs/performance.md. RUN='-bench Rotate' and
#                  PKG run benchmarks alone
#   make lint      gofmt, go vet, staticcheck, vuln, shellcheck, actionlint, hclfmt, go mod tidy,
#                  the import rules, and what the linker keeps
#   make vuln      known vulnerabilities that are reached, from the module proxy alone
#   make e2e       the guests alone: RUN='-run TestWatcher/trixie' narrows it (as root)
#   make guest     a booted guest with keyguard, the stand-in daemon and a shell; its
#                  systemd goes down when you leave. SUITE=bookworm for Debian 12 (as root)
#
# VERSION, DIST, ARCHS and CMD (the program that is packaged) may be given.

.DELETE_ON_ERROR:
.PHONY: build test booted calculated check style unit race volume crashes worlds mutants flips soak fuzz bench demo package build-package lint-package release repository deps lint vuln e2e guest clean clean-guests

# What the calls of make in here inherit.
ifeq ($(MAKELEVEL),0)
# sudo's PATH lacks the place where Go's own archive is usually unpacked.
export PATH := $(PATH):/usr/local/go/bin
# Building in somebody else's checkout, as sudo does, must not fail on git's distrust.
# The version is given to the linker below and not taken from the repository by Go.
export GOFLAGS := -buildvcs=false $(GOFLAGS)
# go.mod names the Go whose standard library has the mends that are known. Where it cannot
# be had, the one that is here must do, and vuln says what that means.
export GOTOOLCHAIN := $(shell PATH='$(PATH)' GOTOOLCHAIN=auto timeout 120 go version >/dev/null 2>&1 && echo auto || echo local)
endif
GIT := git -c safe.directory='*'

PKG   ?= ./...
CMD   ?= ./cmd/keyguard
DIST  ?= dist
ARCHS ?= amd64 arm64
SUITE ?= trixie
FUZZTIME ?= 30s
SOAKTIME ?= 5m
ROUNDS ?= 10
RINGS  := go test -run TestRings ./agent

# A tag v1.2.3 is version 1.2.3; five commits later it is 1.2.3+5.g0123456; before the
# first tag it is 0.1.0-dev.<commits>, which sorts below 0.1.0.
VERSION ?= $(or \
	$(shell $(GIT) describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-\([0-9]*\)-g/+\1.g/'),\
	0.1.0-dev.$(or $(shell $(GIT) rev-list --count HEAD 2>/dev/null),0))
# The time of the last commit, or of the archive that was unpacked: what is built twice
# from it is equal byte by byte.
export SOURCE_DATE_EPOCH ?= $(or $(shell $(GIT) log -1 --format=%ct 2>/dev/null),$(shell stat -c %Y CHANGELOG.md))

# Leaves out gRPC's debugging pages, which would listen for nobody and cost every start
# of the program a good part of a millisecond. They are templates, too: see lint.
TAGS := grpcnotrace

# Tools of other people, by version, built once and outside the checkout.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/containarium-keyguard/tools
NFPM        := $(TOOLS)/nfpm-v2.45.2/nfpm
ACTIONLINT  := $(TOOLS)/actionlint-v1.7.12/actionlint
STATICCHECK := $(TOOLS)/staticcheck-v0.8.2/staticcheck
GOVULNCHECK := $(TOOLS)/govulncheck-v1.9.0/govulncheck
HCLFMT      := $(TOOLS)/hclfmt-v2.25.0/hclfmt

$(NFPM):        MODULE = github.com/goreleaser/nfpm/v2/cmd/nfpm
$(ACTIONLINT):  MODULE = github.com/rhysd/actionlint/cmd/actionlint
$(STATICCHECK): MODULE = honnef.co/go/tools/cmd/staticcheck
$(GOVULNCHECK): MODULE = golang.org/x/vuln/cmd/govulncheck
$(HCLFMT):      MODULE = github.com/hashicorp/hcl/v2/cmd/hclfmt
$(NFPM) $(ACTIONLINT) $(STATICCHECK) $(GOVULNCHECK) $(HCLFMT):
	GOBIN=$(@D) go install $(MODULE)@$(lastword $(subst -, ,$(notdir $(@D))))

build:
	CGO_ENABLED=0 go build -tags '$(TAGS)' -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/keyguard $(CMD)

# The race detector's run is the run. What it plays briefly is played in volume without
# it, and so is what starts the program a thousand times, each start three times as dear
# with it: make soak plays that with it. agent/volume_test.go looks that all stands here.
PROGRAMS := TestScripts|TestHostile|TestHostileNeighbours
VOLUME := TestWatchModel|TestSameSeedSameWorld|TestRealFiles|TestStatusNamesWhatMends|TestHerd|TestWatchGrows|TestHistories|TestSpoiled|TestWorlds|TestCommandConforms|TestVaultConforms|TestEveryWrongWord|TestWrongLineIsNamed|$(PROGRAMS)
VOLUME_IN := ./agent ./agent/escrow/kinds ./agent/key ./agent/worlds ./cmd/keyguard ./hooks

# What hangs has a bound of its own in its test. All of a package's are as long as the machine
# is busy: ten times as long, and more, beside others.
LONGEST := 1h

# Runs one phase of make test, and notes what it cost.
PHASE := bin/phase bin/phases.json

# Skipping a test is an error here: all it needs is installed. A fuzz target has its
# committed inputs and six seconds; the minutes are make soak's.
#
# Programs that live for seconds need not look for garbage as often as Go has them do: it was
# half of what the linters cost.
#
# All but the race detector's run is built as the packages are, without cgo and with their
# tags: linters, tests and packages compile once what others wrote, three minutes on a new
# machine, and what we did.
test: export CGO_ENABLED := 0
test: export GOFLAGS := $(GOFLAGS) -trimpath -tags=$(TAGS) -vet=off # lint has vetted
test: export GOGC := 400
test: export GOMEMLIMIT := 2GiB
test: export KEYGUARD_MUST_RUN := 1
test: export KEYGUARD_HISTORIES := 60
test: export KEYGUARD_MODEL_OPS := 100000
test: export KEYGUARD_EVERY_MANAGER := 1
test: export KEYGUARD_WORLDS := 800
test: deps
	@go build -o bin/phase ./packaging/testing/phase
	@rm -f bin/phases.json
	@$(PHASE) lint $(MAKE) --no-print-directory lint RINGS=: # race has it
	@$(PHASE) demo sh -c '$(MAKE) --no-print-directory demo >bin/demo.log 2>&1 || { cat bin/demo.log; exit 1; }'
	@$(MAKE) --no-print-directory -j2 booted calculated; red=$$?; $(PHASE) && exit $$red
	@echo 'make test: everything passed'

# Guests wait for systems that boot, and leave most of two cores idle: beside them goes what
# calculates.
booted:
	@$(PHASE) guests $(MAKE) --no-print-directory e2e JSON=-json
	@nice $(PHASE) crashes $(MAKE) --no-print-directory crashes JSON=-json

calculated:
	@$(PHASE) race $(MAKE) --no-print-directory race JSON=-json WITHOUT='^($(PROGRAMS))$$'
	@$(PHASE) volume $(MAKE) --no-print-directory volume JSON=-json
	@nice $(PHASE) fuzz $(MAKE) --no-print-directory fuzz FUZZTIME=6s

# Tests wait as long as they calculate: two packages leave two cores idle. GOGC is test's.
check: export GOGC := 400
check: style
	go test -short -p 4 $(PKG)

unit:
	go test $(RUN) $(PKG)

# Each of thousands of ways in which a rotation or a repair can end halfway, once.
crashes:
	KEYGUARD_CRASHES=1 go test $(or $(JSON),-v) -count 1 -timeout $(LONGEST) -run 'Test(Crashes|Killed)$$' ./agent ./cmd/keyguard

# Each world is its seed, and every core plays its part of them. A law that breaks is told by
# the shortest history that breaks it.
worlds:
	go test -c -o bin/worlds.test ./agent/worlds
	@cores=$$(nproc); part=$$(( ($(or $(N),20000) + cores - 1) / cores )); \
	seq 0 $$((cores - 1)) | xargs -P $$cores -I{} sh -c 'cd agent/worlds && exec ../../bin/worlds.test \
		-test.v -test.timeout 24h -test.run TestWorlds -worlds '$$part' -seed $$(( $(or $(SEED),1) + {} * '$$part' ))'

# What the worlds do not find they would not find in the code either.
mutants:
	nice go run ./packaging/mutants -worlds $(or $(N),5000) -seed $(or $(SEED),1) -run '$(RUN)'

flips:
	nice go run ./packaging/flips -files '$(FILES)' -run '$(RUN)' -only '$(ONLY)' $(PKG)

# For hours: what chance leaves out of make test.
soak: export KEYGUARD_MUST_RUN := 1
soak:
	KEYGUARD_CRASHES=1 KEYGUARD_ROUNDS=$(ROUNDS) go test -count 1 -timeout 24h -v -run 'Test(Crashes|Killed)$$' ./agent ./cmd/keyguard
	KEYGUARD_SPOIL=1 KEYGUARD_SEED=$$(date +%s) go test -count 1 -timeout 24h -v -run TestSpoiled ./agent
	$(MAKE) --no-print-directory worlds N=$(ROUNDS)00000 SEED=$$(date +%s)
	KEYGUARD_HISTORIES=$(ROUNDS)000 KEYGUARD_MODEL_OPS=$(ROUNDS)000000 go test -count 1 -timeout 24h -run 'TestHistories|Model' ./agent ./hooks
	KEYGUARD_EVERY_ANSWER=1 go test -race -count 1 -timeout $(LONGEST) -run '$(PROGRAMS)' ./cmd/keyguard
	KEYGUARD_HOSTS=$(ROUNDS)0000 go test -count 1 -timeout 24h -v -run TestNobodyDisagrees ./agent
	KEYGUARD_FLEET=10000 go test -count 1 -timeout 24h -v -run 'TestManyHosts|TestHerd' ./agent/fleet ./hooks
	$(MAKE) --no-print-directory fuzz FUZZTIME=$(SOAKTIME)

race:
	CGO_ENABLED=1 KEYGUARD_MUST_RUN=1 KEYGUARD_HISTORIES= KEYGUARD_MODEL_OPS=1000 KEYGUARD_EVERY_MANAGER= go test $(JSON) -race -short -timeout $(LONGEST) -skip '$(WITHOUT)' $(RUN) $(PKG)

volume:
	go test $(JSON) -timeout $(LONGEST) -run '$(VOLUME)' $(VOLUME_IN)

fuzz:
	FUZZTIME=$(FUZZTIME) packaging/fuzz $(PKG)

bench:
ifdef RUN
	go test -run '^$$' -bench . $(RUN) $(PKG)
else
	go run ./packaging/bench $(WRITE)
endif

demo: deps
	go run ./packaging/demo

# A guest waits more than it calculates: four of them leave one of two cores idle.
e2e: deps $(NFPM)
	go test -tags e2e,$(TAGS) $(or $(JSON),-v) -count 1 -parallel 4 -timeout $(LONGEST) $(RUN) ./packaging/e2e

guest: deps
	$(MAKE) --no-print-directory build-package ARCHS=$$(go env GOARCH) DIST=bin/guest
	CGO_ENABLED=0 go build -o bin/guest/containarium ./packaging/testing/standin
	go run ./packaging/testing/guest/shell -suite $(SUITE) -deb bin/guest/*.deb -daemon bin/guest/containarium

package: build-package lint-package

# The program of this machine's own architecture tells what stands in the manual pages.
build-package: $(NFPM)
	@rm -rf $(DIST)
	@mkdir -p $(DIST)/build
	@set -e; for arch in $(ARCHS) $$(go env GOARCH); do \
		[ -e "$(DIST)/build/$$arch" ] || CGO_ENABLED=0 GOARCH=$$arch go build -tags '$(TAGS)' -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o "$(DIST)/build/$$arch/keyguard" $(CMD); \
	done
	@set -e; keyguard=$(DIST)/build/$$(go env GOARCH)/keyguard; \
		"$$keyguard" describe | go run ./packaging/man -out $(DIST)/build/man; \
		gzip -9n $(DIST)/build/man/*; \
		for shell in bash zsh fish; do "$$keyguard" completion $$shell > $(DIST)/build/completion.$$shell; done
	@packaging/changelog deb '$(VERSION)' | gzip -9n > $(DIST)/build/changelog.gz
	@packaging/changelog rpm '$(VERSION)' > $(DIST)/build/changelog.yaml
	@set -e; for arch in $(ARCHS); do for format in deb rpm; do \
		{ cat nfpm.yaml; [ $$format = deb ] || echo "changelog: $(DIST)/build/changelog.yaml"; } | \
		ARCH=$$arch VERSION='$(VERSION)' BUILD=$(DIST)/build $(NFPM) package -f - -p $$format -t $(DIST)/; \
	done; done
	@rm -rf $(DIST)/build

lint-package:
	@! command -v lintian >/dev/null || lintian --allow-root --fail-on error,warning $(DIST)/*.deb
	@! command -v rpmlint >/dev/null || PATH="$(CURDIR)/packaging/rpmlint:$$PATH" rpmlint --strict --config packaging/rpmlint/rpmlint.toml $(DIST)/*.rpm

release:
	@$(GIT) describe --exact-match --tags --match 'v[0-9]*' >/dev/null || { echo 'release: no tag v1.2.3 is checked out' >&2; exit 1; }
	@[ -z "$$($(GIT) status --porcelain)" ] || { echo 'release: the checkout has changes that the tag has not' >&2; exit 1; }
	@packaging/changelog notes '$(VERSION)' >/dev/null
	@$(MAKE) --no-print-directory build-package
	@packaging/release $(DIST) '$(VERSION)'

repository:
	@packaging/repository '$(DIR)' '$(KEY)' '$(URL)' $(DIST)/*.deb $(DIST)/*.rpm

deps:
	@packaging/deps

lint: $(ACTIONLINT) $(STATICCHECK) $(HCLFMT) style vuln
	$(STATICCHECK) -tags e2e,$(TAGS) ./...
	$(ACTIONLINT) .github/workflows/*.yml
	@$(HCLFMT) -check -require-no-change packaging/terraform/*/*.tf >/dev/null || { echo 'lint: hclfmt -w packaging/terraform/*/*.tf' >&2; exit 1; }
	$(RINGS)
	@! CGO_ENABLED=0 go build -tags '$(TAGS)' -ldflags=-dumpdep -o /dev/null $(CMD) 2>&1 | grep -m 1 '<ReflectMethod>' >&2 || \
		{ echo 'lint: this may call any method by its name, and so the linker keeps all of them: a quarter of the program' >&2; exit 1; }

# What needs no program that has to be built first.
style:
	@unformatted=$$(gofmt -l $$($(GIT) ls-files -co --exclude-standard '*.go')); \
		[ -z "$$unformatted" ] || { echo "not formatted by gofmt: $$unformatted" >&2; exit 1; }
	go vet -tags e2e,$(TAGS) ./...
	go mod tidy -diff
	shellcheck $$($(GIT) ls-files -co --exclude-standard | while read -r f; do ! head -n 1 "$$f" | grep -q '^#! */bin/sh' || echo "$$f"; done)
	shellcheck --shell sh packaging/rpm/*

vuln: $(GOVULNCHECK)
	packaging/vuln $(GOVULNCHECK)

clean:
	rm -rf bin $(DIST)

# Their place is guest.Cache's.
clean-guests:
	rm -rf --one-file-system /var/cache/containarium-keyguard-e2e
