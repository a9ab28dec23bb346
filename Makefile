# The verbs of README. `make demo` and `make test` install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs
PART ?=
SEED ?= 0
IMAGE ?= privimage
TARGET ?=
CPU_INDEX ?=
CLAIMS := $(notdir $(patsubst %/,%,$(dir $(wildcard claims/*/claim.yaml))))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses auto --maxprocesses 4 --dist loadfile
.PHONY: setup demo smoke test test-slow mutants check bench image appendix release rehearsal clean

setup: .venv/.installed

.venv/.installed: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "error: Python %d.%d; use 3.10 to 3.12, for instance: make setup PYTHON=python3.11" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# a run whose verdict is a mismatch (1) gets its report all the same; `compare`, which ends both, says it
JUDGED_LATER := || [ $$? -eq 1 ]

demo: setup
	@$(BIN)/artifact run kick_the_tires --setting smoke --seed $(SEED) --out $(OUT) $(JUDGED_LATER)
	@$(BIN)/artifact report --out $(OUT)
	@$(BIN)/artifact compare kick_the_tires --setting smoke --seed $(SEED) --out $(OUT)

# every claim at its smallest setting, to its verdict
smoke: setup
	@for claim in $(CLAIMS); do \
	  $(BIN)/artifact run $$claim --seed $(SEED) --out $(OUT) $(JUDGED_LATER) || exit 1; done
	@$(BIN)/artifact report --out $(OUT)
	@for claim in $(CLAIMS); do \
	  $(BIN)/artifact compare $$claim --seed $(SEED) --out $(OUT) || exit $$?; done

test: setup
	$(PYTEST)

# kills, lost processes, planted faults: minutes, one after the other, for they use all cores
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --override-ini addopts="--import-mode=importlib --strict-markers" -m "slow and not gpu"

# faults planted in copies of the privacy code: hours for all of them; PART=K/N, or commit/N, for some
mutants: setup
	$(BIN)/python -m tests.mutants $(if $(PART),--part $(PART)) $(if $(filter no,$(CLAIM)),--no-claim) --seed $(SEED) --out $(OUT)/mutants.md

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(PYTEST)

bench: setup
	@for name in dp_step sampling frechet accounting; do PYTHONPATH=. $(BIN)/python bench/$$name.py || exit 1; done

# the commit and its date, for the image's labels: from an unpacked release, from git, or from nowhere
COMMIT = $(firstword $(shell cat REVISION 2>/dev/null || git describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null) unknown)
COMMITTED = $(or $(word 2,$(shell cat REVISION 2>/dev/null || git log -1 --format='%H %cI' 2>/dev/null)),unknown)
# TARGET=cpu CPU_INDEX=ADDRESS: without CUDA's libraries
image:
	$(if $(filter cpu,$(TARGET)),$(if $(CPU_INDEX),,$(error TARGET=cpu needs CPU_INDEX=ADDRESS, the CPU index that the install page of pytorch.org names)))docker build $(DOCKER_BUILD_FLAGS) $(if $(CPU_INDEX),--build-arg CPU_INDEX=$(CPU_INDEX)) $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg REVISION=$(COMMIT) --build-arg CREATED=$(COMMITTED) --tag $(IMAGE) .

# the pages that come from the registry of claims, and the appendix as a PDF where TeX is installed
appendix: setup
	@$(BIN)/python -m artifact.report.pages
	@if ! command -v pdflatex >/dev/null; then echo "pdflatex is not installed: no PDF was made"; else \
	  mkdir -p out && pdflatex -interaction=nonstopmode -halt-on-error -output-directory=out \
	    docs/ARTIFACT-APPENDIX.tex >out/pdflatex.log || { tail -n 20 out/pdflatex.log; exit 1; }; \
	  echo out/ARTIFACT-APPENDIX.pdf; fi

# dist/privimage-VERSION.tar.gz of the commit that is checked out, with a wheel and the sums of all files
release: setup
	@$(BIN)/python tools/release.py

# that release as a reviewer meets it, by the commands of its documents; WITH=--docker in a container, WITH=--quick a part
ARCHIVE ?= $(firstword $(wildcard dist/privimage-*.tar.gz))
WITH ?=
rehearsal: setup
	@mkdir -p out
	@$(BIN)/python -m tools.rehearsal "$(ARCHIVE)" $(if $(filter --docker,$(WITH)),,--python $(BIN)/python) $(WITH) --out out/rehearsal.md

clean:
	rm -rf .venv runs out build dist *.egg-info
