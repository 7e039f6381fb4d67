# segloop: `make demo` shows it, `make run` runs it, `make test` checks it.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.DEFAULT_GOAL := help
# Some shells forbid Python to keep what it compiles: every process would then compile torch anew, for 5 seconds and more.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo run test test-aws test-fast lint lock bench clean docs install base chromium promtool

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# uv comes from the lock file like the rest, by pip, the one tool that every Python has.
$(READY): requirements.lock setup.py segloop/masks/_rle.c
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "segloop needs Python 3.11 or newer; python3 is $$(python3 --version)"; exit 1; }
	@python3 -c 'import ensurepip' 2>/dev/null || { apt-get -qq update && apt-get -qq install -y python3-venv; }
	python3 -m venv --clear $(VENV)
	@awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock
	$(BIN)/pip install -q --no-deps --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# What requirements.lock has for the base of setup.py, for the tests of the installed package.
.venv-base/.ready: $(READY)
	@$(BIN)/python deploy/unneeded.py segloop > $(VENV)/unneeded.txt
	@awk 'NR == FNR {without[$$1]; next} /^[^ ]/ {split($$1, name, "=="); keep = !(name[1] in without)} keep' $(VENV)/unneeded.txt requirements.lock > $(VENV)/base.lock
	@python3 -m venv --clear --without-pip .venv-base
	@$(BIN)/uv pip install -q --python .venv-base/bin/python --no-deps --require-hashes -r $(VENV)/base.lock
	@touch $@

base: .venv-base/.ready

install: $(READY)  ## make .venv from requirements.lock

chromium:
	@command -v chromium >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

# promtool alone: to install Debian's package would start a server on segloop's own port.
promtool: $(READY)
	@test -x $(BIN)/promtool || { apt-get -qq update && cd $(VENV) && apt-get -qq download prometheus \
	  && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C bin --strip-components=3 ./usr/bin/promtool && rm prometheus_*.deb; }

demo: $(READY)  ## a real Label Studio project whose pre-labels get better
	@$(BIN)/python -m demo

run: $(READY)  ## backend, workers and queue on :9090 (the same as `segloop up`)
	@$(BIN)/segloop up

lint: $(READY)  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# A test process that dies ends the run: with another one in its place, xdist has waited for ever after the last test.
test: chromium promtool base lint  ## every check, with a real Label Studio and a browser
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-aws: $(READY)  ## one tiny training in your AWS account, by SEGLOOP_SAGEMAKER_* (costs cents; docs/sagemaker.md)
	@$(BIN)/python -m tests.aws.smoke

test-fast: lint  ## the quick loop: no Label Studio, nothing slow
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/e2e -m "not label_studio and not slow"

lock:  ## requirements.lock from the ranges in setup.py, of it what SageMaker's images lack, and what benchmarks need beyond it
	@$(BIN)/uv pip compile setup.py requirements-label-studio-ml.in --extra all --extra test --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements.lock
	@$(BIN)/python -m segloop.aws requirements.lock
	@echo segmentation-models-pytorch==0.6.0 | $(BIN)/uv pip compile - -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-header -q -o $(VENV)/peers.lock
	@awk 'NR == FNR {if (/^[^ #]/) {split($$1, name, "=="); locked[name[1]]}; next} /^[^ #]/ {split($$1, name, "=="); keep = !(name[1] in locked)} keep' requirements.lock $(VENV)/peers.lock > benchmarks/requirements-peers.txt

docs: $(READY)  ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q

bench: $(READY)  ## every published figure
	@$(BIN)/python -m benchmarks

clean:  ## remove what was made here (not ~/.cache/segloop)
	rm -rf $(VENV) .venv-base build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f segloop/masks/_rle*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
