# The verbs of README. `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs
SEED ?= 0
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses auto --maxprocesses 4
.PHONY: setup demo test check bench clean

setup: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "error: Python %d.%d; use 3.10 to 3.12, for instance: make setup PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup
	@$(BIN)/artifact run kick_the_tires --setting smoke --seed $(SEED) --out $(OUT)
	@$(BIN)/artifact report --out $(OUT)
	@$(BIN)/artifact compare kick_the_tires --setting smoke --seed $(SEED) --out $(OUT)

test: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/codespell
	$(PYTEST)

bench: setup
	@for name in dp_step sampling frechet accounting; do PYTHONPATH=. $(BIN)/python bench/$$name.py || exit 1; done

clean:
	rm -rf .venv runs out build *.egg-info
