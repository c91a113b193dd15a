# make demo    install the core and the bundled plugins into .venv and run the main job
# make check   formatting, lint and types
# make test    the whole test suite on the first Python from 3.11 that this machine offers, in .venv, and on the newest what
#              depends on Python most (discovery, the runtime, the journal), with few examples for each law
# make install what check and test need, both environments at once with `make --jobs 2 install`; they install it, too
# make test-nemo-gym    what NeMo Gym itself says of the datasets we give it, its collector of what we serve, and its servers
#                       played from here; installs it first (1.4 GB, some minutes)
# make test-verifiers   the evaluation command of verifiers on what we serve; installs it first (0.6 GB)
# make test-mlflow      the hook plugin `mlflow` with the real library; installs it first
# make test-trl         one training step of the real TRL on a mix; installs it first (with torch: several GB on Linux)
# make rigs    what takes minutes and proves more: 200 kills, 2,000 power cuts, 20,000 bit flips, a full disk at every byte
# make bench   the figures in docs/explanation/cost.md; ENDPOINT=URL measures rollouts too
# make clean   remove what these made

SHELL := /bin/bash
# Hundreds of tests start a command, which takes twice as long where every file is compiled anew.
unexport PYTHONDONTWRITEBYTECODE
PLUGINS := $(wildcard plugins/*)
PROJECTS := . $(PLUGINS)
# Ray and uvloop, the libraries that read our exports, and every tool that plugins are built with. Tests of what is not
# installed are skipped, so CORE=. and DEV_GROUPS=dev are enough for most work.
CORE ?= .[ray,fast]
DEV_GROUPS ?= dev trainers backends

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell $(SHELL) tests/interpreters.sh | sed -n '1s/^[^ ]* //p')
# The last one, as `3.13 /path/to/python`.
NEWEST = $(shell $(SHELL) tests/interpreters.sh | sed -n '$$p')

# One virtual environment for each Python; their installation is repeated when a pyproject.toml changes.
VENV := .venv
INSTALL = $(1)/bin/python -m pip install --quiet --quiet --disable-pip-version-check
STAMPS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
MAKE_VENV = @test -x $(VENV)/bin/python || { python="$(PYTHON)"; \
	test -n "$$python" || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 2; }; \
	echo "$$python -m venv $(VENV)"; "$$python" -m venv $(VENV); }

.PHONY: demo check test test-one install install-newest test-newest test-nemo-gym test-trl test-mlflow test-verifiers rigs \
	bench clean

demo: $(VENV)/.installed
	$(VENV)/bin/gym run --env example_single_tool_call --env example_multi_step --out runs/demo

$(VENV)/.installed: $(STAMPS)
	$(MAKE_VENV)
	$(call INSTALL,$(VENV)) $(foreach project,$(PROJECTS),--editable $(project))
	@touch $@

# pip 25.1 is the first that installs the development tools from [dependency-groups]. With the build tools there, five
# projects need not each install their own; and what nobody imports need not be compiled.
$(VENV)/.developing: $(STAMPS)
	$(MAKE_VENV)
	$(call INSTALL,$(VENV)) --no-compile 'pip>=25.1' 'editables>=0.5' 'hatchling>=1.26' 'setuptools>=77'
	$(call INSTALL,$(VENV)) --no-compile --no-build-isolation $(foreach group,$(DEV_GROUPS),--group $(group)) \
		$(foreach project,$(CORE) $(PLUGINS),--editable '$(project)')
	@touch $(VENV)/.installed $@

install: $(VENV)/.developing install-newest

# Three for two cores, up to six: a quarter of the time tests wait, for what is killed, for what hangs, for a bound.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$(( cores > 3 ? 6 : cores + (cores + 1) / 2 )))

test:
	@GYMCORE_TEST_PROFILE=thorough $(MAKE) --no-print-directory test-one
	@$(MAKE) --no-print-directory test-newest

test-one: $(VENV)/.developing
	@echo "== $$($(VENV)/bin/python --version) =="
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(ARGS)

# Makes a target with the newest Python, in an environment with less, unless that is the Python of .venv.
VERSION = import sys; print("%d.%d" % sys.version_info[:2])
with_newest = +@set -- $(NEWEST); \
	own=$$(for python in $(VENV)/bin/python "$(PYTHON)"; do "$$python" -c '$(VERSION)' 2>/dev/null && break; done); \
	if [ -n "$$1" ] && [ "$$1" != "$$own" ]; then \
		$(MAKE) --no-print-directory $(1) VENV=.venv-$$1 PYTHON=$$2 CORE=. DEV_GROUPS=tests $(2); \
	fi

install-newest:
	$(call with_newest,.venv-$$1/.developing)

BRIEFLY = -m 'not rig and not slow' $(filter-out tests/test_layers.py,$(wildcard tests/test_*.py)) \
	tests/discovery tests/runtime tests/collection

test-newest:
	$(call with_newest,test-one,ARGS="$(ARGS) $(BRIEFLY)" GYMCORE_TEST_PROFILE=brief)

# NeMo Gym's checker and collector, in an environment of their own.
NEMO_PYTHON = $(shell $(SHELL) tests/interpreters.sh | sed -n 's/^3\.12 //p')

.venv-nemo-gym/.installed:
	@test -n "$(NEMO_PYTHON)" || { echo "nemo-gym needs Python 3.12, and none was found"; exit 2; }
	$(NEMO_PYTHON) -m venv .venv-nemo-gym
	$(call INSTALL,.venv-nemo-gym) nemo-gym==0.4.0
	@touch $@

test-nemo-gym: .venv-nemo-gym/.installed $(VENV)/.developing
	GYMCORE_NEMO_GYM_PYTHON=$(CURDIR)/.venv-nemo-gym/bin/python \
		$(VENV)/bin/python -m pytest -q -rs tests/integrations tests/serving/test_clients.py \
		plugins/nemo_gym/tests/test_real_servers.py plugins/nemo_gym/tests/test_hosting_nemo_gym.py \
		-k 'nemo_gym or four_lines'

# The evaluation command of verifiers, and uv, with which it installs its harness.
.venv-verifiers/.installed:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv-verifiers
	$(call INSTALL,.venv-verifiers) verifiers==0.4.0 uv
	@touch $@

test-verifiers: .venv-verifiers/.installed $(VENV)/.developing
	GYMCORE_VERIFIERS_PYTHON=$(CURDIR)/.venv-verifiers/bin/python \
		$(VENV)/bin/python -m pytest -q -rs tests/serving/test_clients.py -k verifiers

# MLflow, in an environment of its own: it takes half a minute to install, and an older importlib-metadata than ours.
.venv-mlflow/.installed: $(STAMPS)
	$(PYTHON) -m venv .venv-mlflow
	$(call INSTALL,.venv-mlflow) --editable '.[mlflow]' $(foreach plugin,$(PLUGINS),--editable $(plugin))
	@touch $@

test-mlflow: .venv-mlflow/.installed $(VENV)/.developing
	GYMCORE_MLFLOW_PYTHON=$(CURDIR)/.venv-mlflow/bin/python \
		$(VENV)/bin/python -m pytest -q -rs tests/integrations/test_mlflow.py

# TRL with torch, in an environment of their own that has us, too; TORCH may name a wheel that is smaller.
TORCH ?= torch

.venv-trl/.installed: $(STAMPS)
	$(PYTHON) -m venv .venv-trl
	$(call INSTALL,.venv-trl) --upgrade 'pip>=25.1'
	$(call INSTALL,.venv-trl) --group dev --group trainers '$(TORCH)' 'trl>=1.16,<2' \
		$(foreach project,. $(PLUGINS),--editable '$(project)')
	@touch $@

test-trl: .venv-trl/.installed
	.venv-trl/bin/python -m pytest -q -rs tests/integrations/test_trl.py tests/integrations/test_trl_training.py

rigs: $(VENV)/.developing
	$(VENV)/bin/python -m pytest -q -s -m rig --durations=0 $(ARGS)

check: $(VENV)/.developing
	$(VENV)/bin/ruff format --check gymcore plugins tests
	$(VENV)/bin/ruff check gymcore plugins tests
	$(VENV)/bin/mypy gymcore $(wildcard plugins/*/src)

bench: $(VENV)/.developing
	$(VENV)/bin/python tests/benchmarks/startup.py
	$(VENV)/bin/python tests/benchmarks/install_size.py
	@if [ -n "$(ENDPOINT)" ]; then $(VENV)/bin/python tests/benchmarks/rollouts.py --base-url $(ENDPOINT); \
	else echo "rollouts: not measured; name an endpoint with ENDPOINT=http://127.0.0.1:PORT/v1"; fi

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .hypothesis
