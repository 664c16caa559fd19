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

# Scripts beside those of the pictures, which draw none themselves.
HELPERS := docs/pictures/drawing.py docs/pictures/toy_sentences.py
PICTURES := $(filter-out $(HELPERS),$(wildcard docs/pictures/*.py))

# What code and results say of themselves, written anew, and pictures that were never drawn.
pages: $(READY)
	$(BIN)/python -m doublure.verbs.reference
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/figures.py
	@for script in $(PICTURES); do \
		test -f $${script%.py}.png || $(BIN)/python $$script || exit 1; done

# Two of them show what the demo made.
pictures: $(READY)
	test -d demo || $(BIN)/doublure demo --out demo
	for script in $(PICTURES); do $(BIN)/python $$script || exit 1; done

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
