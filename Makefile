# make run   a working server in the foreground, with accounts alice and bob
# make test  everything the continuous integration runs
# make bench side by side with Kamailio (Debian), results in bench/results/

# PYTHON chooses the interpreter; tests/python.sh says which one is taken without it.
VENV   ?= .venv
RUN    ?= .run
SHELL  := /bin/bash

SOURCES := $(shell find serpy -name '*.py' -o -name '*.lark' -o -name '*.c') setup.py cold.h pyproject.toml

.PHONY: run test test-pure lint bench clean install

run: $(VENV)/.installed
	@exec $(VENV)/bin/serpyctl -f etc/serpy.conf -Y $(RUN) quickstart $(if $(LISTEN),-l $(LISTEN))

install: $(VENV)/.installed

# A wheel, not an editable install: the compiled files must be the ones that run.
$(VENV)/.installed: $(SOURCES)
	@PYTHON=$(PYTHON) bash tests/install.sh $(VENV)

test:
	@PYTHON=$(PYTHON) VENV=$(VENV) bash tests/run.sh

lint:
	@PYTHON=$(PYTHON) VENV=$(VENV) bash tests/run.sh lint

test-pure:
	@PYTHON=$(PYTHON) VENV=$(VENV) bash tests/run.sh pure

bench: $(VENV)/.installed
	@$(VENV)/bin/python bench/run.py $(BENCH)

clean:
	rm -rf build .venv .venv-pure *.egg-info .mypy_cache .ruff_cache .hypothesis
