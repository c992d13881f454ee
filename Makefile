# Thin: each target calls one thing, which can be called without make as well.

BACKEND ?= vxlan
HOSTS ?= 3
FUZZ_RUNS ?= 20000000
VERDICTS ?= 10000000
SWAPS ?= 100000
LOOKUPS ?= 10000000
FAULTS ?= 70
SEED ?=
MINUTES ?= 60
# Tests in namespaces at a time. Those of a class, or of a module without, stay together.
JOBS ?= 6
# With 1, the demo's containers are docker's.
DOCKER ?=
# The Debian of `make fresh` and `make deb-trial`, a directory that keeps the latter's for the next time,
# and what is run in the former.
SUITE ?= bookworm
ROOT ?=
RUN ?= make demo && make demo DOCKER=1 && make test
PREFIX ?= /usr
DESTDIR ?=
# For install: a directory of wheels that `make dist` has filled. No network and no compiler is needed.
WHEELHOUSE ?=
# The Python that .venv/ is made of: 3.11 or later, with venv and its C headers. Empty: the first fit.
PYTHON ?=

PYTHONS = $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3)
PYENV = $(or $(PYENV_ROOT),$(HOME)/.pyenv)
INSTALLS_FROM := pyproject.toml setup.py MANIFEST.in $(wildcard csrc/*)
PYTEST = -m pytest
# Where tests do not need the whole machine to themselves: as many at a time as there are cores.
SIDE_BY_SIDE = -n auto
UNIT = tests --ignore=tests/project/test_linters.py
# On another Python: not what is the same on all of them, C and the texts of the project.
UNIT_AGAIN = tests --ignore=tests/project --ignore=tests/csrc \
	--ignore=tests/cli/rulesets/test_readers_fuzz.py
# Nor once more what costs much: asserts that explain themselves, and as many random examples.
NETNS = netns-tests -n $(JOBS) --dist loadscope --no-loadscope-reorder  # see conftest.py
BRIEFLY = --assert=plain --hypothesis-profile=briefly
PYTHONS_AGAIN = 3.12 3.13
COVERAGE = $(CURDIR)/build/coverage
# $(call measure,NAME): pytest, with what it reaches left in build/coverage/NAME/.
measure = rm -rf $(COVERAGE)/$(1) && mkdir -p $(COVERAGE)/$(1) && \
	.venv/bin/coverage run --data-file=$(COVERAGE)/$(1)/data $(PYTEST)

MAKEFLAGS += --no-print-directory
ifndef AT_ONCE
# Two builds at once would write the same files.
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:
.PHONY: help setup test lint unit units netns fuzz verdicts race chaos soak coverage coverage-unit dist deb deb-trial demo fresh bench bench-guard bench-udp install uninstall clean as-root packages containers

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "Variables: BACKEND=$(BACKEND) HOSTS=$(HOSTS) DOCKER=1 for demo, PYTHON= for setup in a clean"
	@echo "tree and for install, DESTDIR= PREFIX=$(PREFIX) for install and uninstall,"
	@echo "WHEELHOUSE= for install without a network."
	@echo "FUZZ_RUNS=$(FUZZ_RUNS) for fuzz, VERDICTS=$(VERDICTS) for verdicts," \
		"SWAPS=$(SWAPS) LOOKUPS=$(LOOKUPS) for race."
	@echo "JOBS=$(JOBS) for netns, FAULTS=$(FAULTS) SEED= ONLY= BACKEND= for chaos, MINUTES=$(MINUTES) for soak,"
	@echo "SUITE=$(SUITE) RUN=\"$(RUN)\" for fresh."

setup: packages .venv/.installed ## .venv/, with the flanneld of this checkout in .venv/bin/
	@# Once, not at each start: where PYTHONDONTWRITEBYTECODE is set, no program leaves it behind.
	@.venv/bin/python -m compileall -q flannel

test: as-root setup lint units netns ## everything below; needs root

lint: setup ## ruff, mypy, import-linter, codespell, clang-format, shellcheck, the C compiler's warnings
	@.venv/bin/python $(PYTEST) tests/project/test_linters.py $(SIDE_BY_SIDE)

unit: setup ## tests that need no root and no network
	@.venv/bin/python $(PYTEST) $(UNIT) $(SIDE_BY_SIDE)

# Each alone waits for half of its time. Their output comes at their ends.
units: setup ## the unit tests on this Python and on others that are installed, side by side
	@$(foreach each,$(PYTHONS_AGAIN),$(if $(call find-other,$(each)),$(MAKE) .venv-$(each)/.installed &&)) :
	@$(MAKE) -j --output-sync=target AT_ONCE=1 unit $(PYTHONS_AGAIN:%=unit-%)

netns: as-root setup containers ## tests in network namespaces, on the real kernel and etcd; needs root
	@.venv/bin/python $(PYTEST) $(NETNS)

# The unit tests alone need no root.
coverage: as-root coverage-unit containers ## lines and branches that the unit tests reach, and both suites together; needs root
	@$(call measure,netns) $(NETNS)
	@.venv/bin/python tests/helpers/coverage_table.py $(COVERAGE)/unit $(COVERAGE)/netns

coverage-unit: setup ## those that the unit tests reach
	@$(call measure,unit) $(UNIT_AGAIN) $(SIDE_BY_SIDE)
	@.venv/bin/python tests/helpers/coverage_table.py $(COVERAGE)/unit

fuzz: packages ## libFuzzer on the pure C files; what it finds stays in csrc/fuzz/found/
	@csrc/fuzz/run $(FUZZ_RUNS)

verdicts: setup ## verdict.c beside its specification in Python, packet by packet
	@.venv/bin/python tests/helpers/verdicts.py $(VERDICTS)

race: packages ## the packet loop's threads under ThreadSanitizer while its table is swapped
	@csrc/fuzz/run-race $(SWAPS) $(LOOKUPS)

chaos: as-root setup ## faults at random in vxlan, host-gw and udp clusters, until one does not heal; needs root
	@.venv/bin/python netns-tests/chaos.py --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)") \
		$(if $(filter command,$(firstword $(origin BACKEND))),--backend $(BACKEND))

soak: as-root setup ## MINUTES of traffic and changing leases: nothing lost, nothing leaked; needs root
	@.venv/bin/python netns-tests/soak.py --minutes $(MINUTES) --backend $(BACKEND)

demo: as-root setup ## hosts and containers in namespaces, pinging each other; needs root
	@.venv/bin/python netns-tests/demo.py --backend $(BACKEND) --hosts $(HOSTS) \
		$(if $(DOCKER),--docker)

# No setup: what it runs stands on what that Debian has.
fresh: export RUN := $(RUN)
fresh: as-root ## RUN in a clone of the last commit on a clean Debian SUITE, made for it and removed; needs root
	@command -v debootstrap >/dev/null || netns-tests/install-packages.sh debootstrap debootstrap
	@netns-tests/fresh-root.sh "$(SUITE)" "$$RUN"

bench: as-root setup ## time to program many peers, beside ip -batch; needs root
	@.venv/bin/python bench/program_peers.py

bench-guard: as-root setup ## what the firewall's guard costs, beside no guard; needs root
	@netns-tests/install-packages.sh iperf3 iperf3
	@.venv/bin/python bench/guard_cost.py

bench-udp: as-root setup ## speed of the udp backend beside a plain loop, VXLAN and no tunnel; needs root
	@netns-tests/install-packages.sh iperf3 iperf3
	@.venv/bin/python bench/udp_tunnel.py --chart bench/udp_tunnel.svg

# The distribution's Python before others: it is there for all users, at every boot.
install: ## flanneld, its units and all else in dist/, in PREFIX; see dist/install.sh
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" WHEELHOUSE="$(WHEELHOUSE)" dist/install.sh install \
		"$(call find-python,$(or $(PYTHON),/usr/bin/python3 $(PYTHONS)),$(if $(WHEELHOUSE),pass))"

uninstall: ## take away what install has put there
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" dist/install.sh remove

dist: setup ## what is published: sdist and wheel in build/dist/, the same bytes each time, and tried
	@.venv/bin/python dist/make_dist.py

deb: setup ## a Debian package in build/dist/, for Debian 12 and 13; the same bytes each time
	@.venv/bin/python dist/make_deb.py

deb-trial: as-root setup ## the package on booted hosts of a clean SUITE: install, upgrade, purge; needs root
	@netns-tests/install-packages.sh debootstrap debootstrap
	@.venv/bin/python netns-tests/deb_trial.py $(SUITE) $(if $(ROOT),--root $(ROOT))

clean: ## remove what the others have made
	rm -rf .venv .venv-* build *.egg-info flannel/backends/udp/_dataplane*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

as-root:
	@[ "$$(id -u)" -eq 0 ] || { echo "cannot make network namespaces: this needs root" >&2; exit 1; }

packages:
	@netns-tests/install-packages.sh

# Container programs besides docker, that -hand-over gives the lease to.
containers: packages
	@netns-tests/install-packages.sh podman podman /usr/lib/podman/netavark netavark \
		/usr/lib/cni/bridge containernetworking-plugins

CAN_BUILD := import ensurepip, os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")
# $(call find-python,CANDIDATES,NEEDS): the first that runs, is recent enough, and has what is needed:
# by default, what one builds for it with. A command that is there may still not run: pyenv leaves such
# in PATH.
find-python = $(shell for python in $(1); do "$$python" -c 'import sys, venv; \
	assert sys.version_info >= (3, 11); $(or $(2),$(CAN_BUILD)); print(sys.executable)' \
	2>/dev/null && break; done)
find-other = $(call find-python,python$(1) $(wildcard $(PYENV)/versions/$(1).*/bin/python))

# $(call install,VENV,PYTHON,EXTRA)
define install
	@[ "$(2)" ] || { echo "cannot make $(1): none of '$(PYTHONS)' is a Python of 3.11 or later" \
		"with the module venv and its C headers" >&2; exit 1; }
	@$(1)/bin/python -c 'import pip' 2>/dev/null || { \
		echo "making $(1) with $(2)"; "$(2)" -m venv --clear $(1); }
	@echo "installing flannel[$(3)] in $(1)"
	@$(1)/bin/python -m pip install -qq --disable-pip-version-check --use-pep517 \
		--editable '.[$(3)]'
	@touch $@
endef

.venv/.installed: $(INSTALLS_FROM)
	$(call install,.venv,$(call find-python,$(PYTHONS)),dev)

.venv-%/.installed: $(INSTALLS_FROM)
	$(call install,.venv-$*,$(call find-other,$*),test)

unit-%: packages
	@$(if $(call find-other,$*),$(MAKE) .venv-$*/.installed)
	@$(if $(call find-other,$*), \
		.venv-$*/bin/python $(PYTEST) $(UNIT_AGAIN) $(BRIEFLY) $(SIDE_BY_SIDE) \
		,echo "Python $* is not installed here: no unit tests on it")
