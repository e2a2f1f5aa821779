# Short targets; `make help` lists them.

SHELL = /bin/bash
SWIFT ?= swift
BENCH_ARGUMENTS ?=
DEMO_ARGUMENTS ?=
MEMCACHED_ARGUMENTS ?=
PROGRAM_ARGUMENTS ?=
KILLS ?= 1000
LANE_KILLS ?= 200
RUNS ?= 10000000
SECTIONS ?= 1000000
PREFIX ?= /usr/local
DESTDIR ?=
BUILD ?= .build/release
CRASH_ARGUMENTS ?=
MUTANT_ARGUMENTS ?=
# The crash laboratory in a release build of its own: no other release build has its hooks.
LABORATORY = $(SWIFT) build -c release --traits CrashLaboratory --scratch-path .build/laboratory
SWIFT_FILES = $(wildcard Sources Tests Examples Benchmarks/Sources Package.swift Benchmarks/Package.swift)

# The runner's own summary comes last, after what helpers say at their end, and what failed just
# before it: whoever is shown the end of the output sees why.
SUMMARY_LAST = awk '/Test run with [0-9]+ test/ {summary = $$0; next} {print; fflush()} \
  /recorded an issue/ {found = found $$0 "\n"; more = 1; next} \
  more && /↳/ {found = found $$0 "\n"; next} {more = 0} END {printf "%s%s\n", found, summary}'

# The system's, where another one in the path has no matplotlib.
PICTURE_PYTHON = $$(python3 -c 'import matplotlib' 2> /dev/null && echo python3 || \
  echo /usr/bin/python3)

PEER_ARGUMENTS ?=
.PHONY: demo-memcached test-peers bench-memcached bench-wrapped
.PHONY: help dependencies build release demo test test-quick test-crash test-crash-long test-mutants
.PHONY: test-hardware test-programs bench format lint clean laboratory test-kills test-flips
.PHONY: test-ratios documentation test-threads test-tsan fuzz install installable man

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 18

dependencies: ## Installs the system libraries that are missing
	@Scripts/dependencies.sh

build: dependencies ## Debug build of everything
	$(SWIFT) build --build-tests

release: dependencies ## Release build of libraries and programs
	$(SWIFT) build -c release

installable: dependencies
	@for product in volip VolipC VolipPreload VolipWrap; do \
	  $(SWIFT) build -c release --product $$product || exit 1; done

install: installable ## Command, C library and headers to PREFIX=/usr/local, below DESTDIR
	@DESTDIR='$(DESTDIR)' Scripts/install.sh '$(BUILD)' '$(PREFIX)'

demo: dependencies ## Kills a virtual machine 50 times and looks whether its hash map lost anything
	$(SWIFT) build -c release --product hashmap-demo
	@.build/release/hashmap-demo $(DEMO_ARGUMENTS)

demo-memcached: dependencies ## Kills an unmodified memcached 50 times; MEMCACHED_ARGUMENTS=--host
	@Scripts/dependencies.sh memcached
	$(SWIFT) build -c release --product volip
	$(SWIFT) build -c release --product VolipWrap
	$(SWIFT) build -c release --product memcached-demo
	@.build/release/memcached-demo $(MEMCACHED_ARGUMENTS)

test-peers: release ## Kyoto Cabinet, LMDB and SQLite under failure-atomic msync, killed
	@Scripts/dependencies.sh peers
	@Scripts/test-peers.py $(PEER_ARGUMENTS)

test: build release lint ## Both builds, lint and all tests
	-@Scripts/dependencies.sh memcached && Scripts/dependencies.sh peers
	@if Scripts/dependencies.sh ratios; then $(MAKE) --no-print-directory test-ratios; fi
	@set -o pipefail; $(SWIFT) test --skip-build --disable-xctest 2>&1 | $(SUMMARY_LAST)

test-quick: build ## Tests without those that kill processes: under a minute
	$(SWIFT) test --skip-build --disable-xctest --skip CrashTests --skip ExampleTests \
	  --skip CFaceTests

laboratory: dependencies
	@$(LABORATORY) --product crash-laboratory

test-crash: laboratory test-kills ## 100,000 different crash images, and 1,000 real kills
	@.build/laboratory/release/crash-laboratory --distinct 100000 $(CRASH_ARGUMENTS)

test-crash-long: laboratory ## Ten million of them; an hour at most on two cores
	@.build/laboratory/release/crash-laboratory --distinct 10000000 --images-per-point all \
	  $(CRASH_ARGUMENTS)

test-mutants: build laboratory ## Removes each flush, fence and check, and looks which test notices
	@Scripts/test-mutants.py $(MUTANT_ARGUMENTS)

test-hardware: build ## Guest mode on an emulated processor; power cuts on an emulated NVDIMM
	@Scripts/hardware.sh

test-kills: build ## Real kills at random times and at every named point; KILLS=1000
	VOLIP_KILLS=$(KILLS) VOLIP_LANE_KILLS=$(LANE_KILLS) $(SWIFT) test --skip-build --disable-xctest \
	  --filter 'KillSoakTests|LaneKillTests'

test-flips: build ## Every single bit of superblocks, log and heap metadata, flipped
	VOLIP_FLIP_STEP=1 $(SWIFT) test --skip-build --disable-xctest --filter BitFlipTests

# A round of 1,200 pages takes a tenth of a second in the guest: there a thousandth of them.
test-threads: build ## Trackers against oracles, sections of four threads; SECTIONS=1000000
	VOLIP_TRACKER_ROUNDS=$(SECTIONS) VOLIP_GUEST_ROUNDS=$$(($(SECTIONS) / 1000)) \
	  VOLIP_GUEST_SPINS=$$(($(SECTIONS) / 100)) VOLIP_GUEST_SECTIONS=$(SECTIONS) \
	  $(SWIFT) test --skip-build --disable-xctest --filter 'TrackerTests'

test-tsan: dependencies ## The host's side under ThreadSanitizer
	@Scripts/test-tsan.sh

fuzz: dependencies ## libFuzzer with AddressSanitizer over hostile pools; RUNS=10000000
	@Scripts/fuzz.sh $(RUNS)

test-programs: release ## Programs that nobody here wrote, natively and in guest mode
	@Scripts/test-programs.py $(PROGRAM_ARGUMENTS)

man: release ## Man pages and completions, into .build/share; make install takes them along
	@Scripts/man-pages.py .build/release/volip .build/share

bench: ## Benchmarks, with pictures in Benchmarks/results; BENCH_ARGUMENTS='--quick --json' for instance
	@Scripts/dependencies.sh bench
	cd Benchmarks && $(SWIFT) build -c release
	@Benchmarks/bench.sh $(BENCH_ARGUMENTS)

test-ratios: ## What the collections promise beside others', with slack
	@Scripts/dependencies.sh ratios
	cd Benchmarks && $(SWIFT) build -c release
	@Benchmarks/ratios.py

bench-memcached: release ## memcached with commits every 0.1 to 100 ms, natively and wrapped
	@Scripts/dependencies.sh memcached
	@Scripts/dependencies.sh bench
	@$(PICTURE_PYTHON) Benchmarks/Memcached/bench.py $(BENCH_ARGUMENTS)

bench-wrapped: release ## Commits of epochs, recovery of a full memcached, Kyoto Cabinet's commits
	@Scripts/dependencies.sh memcached
	@Scripts/dependencies.sh peers
	@Benchmarks/Wrapped/wrapped.py $(BENCH_ARGUMENTS)

documentation: build ## The documentation for a browser, in .build/documentation
	@Scripts/documentation.sh

format: ## Formats all Swift code
	$(SWIFT) format format --in-place --recursive --parallel $(SWIFT_FILES)

lint: ## What formatting would change, as errors
	@$(SWIFT) format lint --strict --recursive --parallel $(SWIFT_FILES)

clean: ## Removes build products
	rm -rf .build Benchmarks/.build
