# Everything a developer runs. `make demo` and `make test` set up all they need on a machine with git, Python and apt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help demo demo-fleet test bench matrix package survive crash sessions bypass player outages vm fuzz lint host venv clean fleet

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: venv ## the main job, seen working on a disposable host (ARGS=--json: one object as the last line)
	@$(BIN)/python -m examples.demo $(ARGS)

demo-fleet: venv ## the same over NATS: Debian's nats-server, three hosts, one approval, everything shut at once (ARGS=--json)
	@$(BIN)/python -m examples.demo.fleet $(ARGS)

test: venv ## every check: linters, unit tests, and the host suite on booted test hosts (ARGS: pytest's own)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

matrix: venv ## the host suite on bookworm, trixie and sid; ends with a table of versions and `N suites, M failures` (ARGS: --suite NAME, --quick, --json, --list)
	@$(BIN)/python -m tests.matrix $(ARGS)

survive: venv ## whatever tenants leave running, on booted hosts with and without systemd; ends with `N rows, M survivors` (ARGS=--json)
	@$(BIN)/python -m tests.survival $(ARGS)

crash: venv ## tidegated killed at 1,500 points and more, on two hosts (ARGS: --json, --sample 100, --point NAME, --hosts N)
	@$(BIN)/python -m tests.crash $(ARGS)

sessions: venv ## every kind of ssh session with and without the recorder; ends with `N cases, M differ` (ARGS: --json, --case NAME, --quick, --list)
	@$(BIN)/python -m tests.sessions $(ARGS)

bypass: venv ## a tenant against the recorder; ends with `N tried, M escaped` (ARGS: --json, --attack NAME, --list)
	@$(BIN)/python -m tests.bypass $(ARGS)

player: $(VENV)/.player ## a ten-minute recording as asciinema and its player in Chromium show it; ends with `N checks, M failed` (ARGS: --json, --help)
	@$(BIN)/python -m tests.player $(ARGS)

outages: venv ## courier and control plane killed, cut off, down, lying, slow, flooding; ends with `N outages, M failures` (ARGS: --json, --list, --seconds 6)
	@$(BIN)/python -m tests.outages $(ARGS)

bench: venv ## side by side with what would be used instead, half an hour; makes docs/PERFORMANCE.md (ARGS: --quick, --only ROW, --compare, --json)
	@$(BIN)/python -m benchmarks $(ARGS)

package: venv ## tidegate as deb and rpm, in dist/: the same bytes for the same commit
	@$(BIN)/python packaging/build.py $(ARGS)

lint: venv ## only the linters
	@$(BIN)/python -m pytest -q tests/unit/test_linters.py

host: venv ## a root shell on a fresh test host with Tidegate running
	@$(BIN)/python -m tests.hosts shell --prepare tests.hosts.prepare:install_tidegate --run 'systemctl start tidegated'

fuzz: $(VENV)/.fuzz ## every fuzzer for a bounded time, then many random lives of grants (ARGS: --seconds 60, names of targets)
	@$(BIN)/python -m tests.fuzz --lives 400 $(ARGS)

vm: venv ## power cuts, clocks set, suspends, what tenants run, on virtual machines (ARGS=--quick: a few minutes; --help)
	@$(BIN)/python -m tests.vm $(ARGS)

fleet: venv ## 5,000 hosts on one nats-server, 20 of them real couriers; ends with one JSON line (ARGS: --hosts N, --quick, --tls, --help)
	@$(BIN)/python -m tests.fleet $(ARGS)

venv: $(VENV)/.made ## .venv with Tidegate and the tools of its tests

$(VENV)/.made: pyproject.toml
	@echo "venv: installing Tidegate and the tools of its tests into $(VENV) ..." >&2
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); apt-get install --yes python3-venv >&2 && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.made
	@echo "fuzz: installing atheris into $(VENV) ..." >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	@touch $@

$(VENV)/.player: $(VENV)/.made
	@echo "player: installing asciinema-player and pyte into $(VENV) ..." >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,player]'
	@touch $@

clean: ## what was built here (not the cached host roots)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
