# What a newcomer needs: `make demo` and `make test`. Everything else is listed by `make help`.
PY := .venv/bin/python
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
# pytest-xdist: one worker a core; the integration part needs root (namespaces, cgroups, mounts).
WORKERS ?= $(shell nproc)

SECONDS ?= 60
# One machine at a time: its two cores use both of ours.
VM = $(ROOT) EDGED_VM=1 $(PY) -m pytest -p no:xdist --durations=20 --durations-min=5

.PHONY: help demo demo-up demo-down test test-vm test-vm-ci test-powercut test-vm-fleet test-vm-arm64 unit lint simulate bench setup setup-test lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## hub, broker, one node and the demo pods on this machine, in the foreground; Ctrl-C leaves nothing behind
	@$(ROOT) $(PY) -m cloudlink.cli demo run

demo-up: setup ## the same in the background; returns when the demo's pods are Ready
	@$(ROOT) $(PY) -m cloudlink.cli demo up

demo-down: ## takes the demo down; returns when nothing is left of it
	@if [ -x $(PY) ]; then $(ROOT) $(PY) -m cloudlink.cli demo down; else echo "nothing to take down: no .venv here"; fi

test: setup-test ## every test that can run on this machine
	@$(ROOT) $(PY) -m pytest -n $(WORKERS) --dist worksteal tests

test-vm: setup-test ## boards as virtual machines: all but the long ones below (an hour; tests/vm/README.md)
	@tools/setup.sh vm
	@$(VM) -m "not vm_long" tests/vm

test-vm-ci: setup-test ## the part of it that CI runs
	@tools/setup.sh vm
	@$(VM) -m vm_ci tests/vm

test-powercut: setup-test ## power cuts at random moments, CUTS=200 of them (docs/power.md); SEED= replays a plan
	@tools/setup.sh vm
	@CUTS=$${CUTS:-200} $(VM) tests/vm/test_vm_powercut.py

test-vm-fleet: setup-test ## three boards and a hub: one dies, its pods move, it returns
	@tools/setup.sh vm
	@$(VM) tests/vm/test_vm_fleet.py

test-vm-arm64: setup-test ## the arm64 image, built and booted in an emulator: it joins and runs an arm64 workload (20 to 40 minutes)
	@tools/setup.sh arm64
	@$(ROOT) EDGED_VM=1 EDGED_VM_ARM64=1 $(PY) -m pytest -p no:xdist tests/vm/test_vm_arm64.py

unit: setup-test ## the pure tests alone, without root
	@$(PY) -m pytest -n $(WORKERS) tests/unit

lint: setup-test ## ruff, mypy --strict, the layer contracts
	@$(PY) -m pytest -q tests/test_linters.py

simulate: setup-test ## seed after seed of the deterministic simulation, for SECONDS=60 (docs/simulation.md)
	@$(PY) -m tests.simulation --seed $$(date +%s) --seconds $(SECONDS)

bench: setup-test ## benchmarks, one JSON object a line; each with its floor or peer from the same run
	@$(ROOT) $(PY) -m tests.bench

setup: ## Debian packages and .venv, if missing
	@tools/setup.sh demo

setup-test:
	@tools/setup.sh test
