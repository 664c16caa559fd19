# Two commands for a newcomer: `make demo` and `make test`. Each sets up all it needs.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TEST := $(VENV)/.ready-test
READY_DOCS := $(VENV)/.ready-docs

.PHONY: demo test test-slow lint docs pages pictures benchmarks clean

# One thread: on networks this small, several wait for each other more than they help.
demo: $(READY)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/doublure demo --out demo --overwrite
	@echo "open demo/report.html"

test: $(READY_TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY_TEST)
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(READY_TEST)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY_DOCS)
	$(BIN)/mkdocs build --strict

# What code and results say of themselves, written into the pages anew.
pages: $(READY)
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/figures.py

# Two of them show what the demo made.
pictures: $(READY)
	test -d demo || $(BIN)/doublure demo --out demo
	for script in $(filter-out docs/pictures/drawing.py docs/pictures/toy_sentences.py,$(wildcard docs/pictures/*.py)); do \
		$(BIN)/python $$script || exit 1; done

# torch first: a range would take the newest build there is.
$(READY): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit('doublure needs Python >= 3.11') if sys.version_info < (3, 11) else 0"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) and what doublure needs into $(VENV); this takes a minute or so"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY_TEST): $(READY)
	@echo "installing what the tests need into $(VENV); this takes a minute or so"
	$(BIN)/python -m pip install --quiet --editable ".[test,text]"
	@touch $@

$(READY_DOCS): $(READY_TEST)
	@echo "installing what the pages need into $(VENV); this takes a minute or so"
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
