# Each target is one line that can be pasted into a shell. The first use of any
# of them makes .venv and installs the pinned versions; later uses reuse it,
# until pyproject.toml or constraints.txt changes.

# The first of these that runs and is 3.11 or 3.12; say `make PYTHON=...` for another.
PYTHON = $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
READY = .venv/installed

# A fresh folder for each run: nothing is ever deleted or overwritten.
OUT := septum-run-$(shell date +%Y%m%d-%H%M%S)
ARGS =
NPZ = pneumoniamnist.npz
# One more than the cores of the machine that this is measured on: the tests of real processes wait.
WORKERS = 3
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: simulate test test-slow check bench bench-deid bench-dp docs

simulate: $(READY)  ## a whole study on one machine; more options in ARGS="--sites 4 ..."
	$(BIN)/septum simulate --out $(OUT) $(ARGS)

test: $(READY)  ## every test but the slow ones, and every doctest
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest $(SPREAD) -m slow

check: $(READY)  ## style, types and the arrows between the zones
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(READY)  ## public radiographs as DICOM hospitals; NPZ=path/to/pneumoniamnist.npz
	$(BIN)/septum bench pneumoniamnist $(NPZ) --out $(OUT) $(ARGS)

bench-deid: $(READY) .venv-deid/installed  ## Septum beside other de-identifiers: same files, one run
	$(BIN)/python benchmarks/deid/compare.py --peers .venv-deid $(ARGS)

bench-dp: $(READY)  ## a step of DP-SGD in every way, beside plain torch: CPU time and memory
	$(BIN)/python benchmarks/dp/compare.py $(ARGS)

docs: $(READY)  ## run the doctests; check every link, code and claim of the documents
	$(BIN)/python -m pytest $(SPREAD) septum client server strategies simulations tests/house

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { test -n "$(PYTHON)" || { echo "Septum needs Python 3.11 or 3.12. Install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The tools that Septum is compared with live apart: none of them is ever installed beside it.
.venv-deid/installed: benchmarks/deid/tools.txt
	test -x .venv-deid/bin/python || $(PYTHON) -m venv .venv-deid
	.venv-deid/bin/pip install --quiet --disable-pip-version-check -r benchmarks/deid/tools.txt
	@touch $@
