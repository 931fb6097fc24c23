# make run   a working server in the foreground, with accounts alice and bob
# make test  everything the continuous integration runs
# make bench side by side with Kamailio (Debian), results in bench/results/

PYTHON ?= python3
VENV   ?= .venv
RUN    ?= .run
SHELL  := /bin/bash

SOURCES := $(shell find serpy -name '*.py' -o -name '*.lark') setup.py pyproject.toml

.PHONY: run test test-pure lint bench clean install fuzz

run: $(VENV)/.installed
	@exec $(VENV)/bin/serpyctl -f etc/serpy.conf -Y $(RUN) quickstart $(if $(LISTEN),-l $(LISTEN))

install: $(VENV)/.installed

# A wheel, not an editable install: the compiled files must be the ones that run.
$(VENV)/.installed: $(SOURCES)
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing serpy (compiles the hot parts, about a minute) ..."
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --force-reinstall --no-deps . 2>&1 | grep -v '^$$' || true
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check .
	@touch $@

test:
	@PYTHON=$(PYTHON) VENV=$(VENV) bash tests/run.sh

lint:
	@VENV=$(VENV) bash tests/run.sh lint

bench: $(VENV)/.installed
	@$(VENV)/bin/python bench/run.py $(BENCH)

clean:
	rm -rf build .venv .venv-pure *.egg-info .mypy_cache .ruff_cache .hypothesis
