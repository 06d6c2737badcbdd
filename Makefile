# Everything a person needs: `make demo` and `make test`. Both make .venv and install into it what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow test-reliability golden lint results clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.demo

# The main job on rendered clips: data, teacher, student alone, student distilled (3 seeds each), table, report.
demo: $(VENV)/.demo
	$(BIN)/python -m data_prep motion --out data/motion
	$(BIN)/python -m vidkd.bench configs/bench/demo.yaml
	$(BIN)/python -m vidkd.report runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# What docs/reliability.md reports: every test of tests/reliability, then runs interrupted at random moments (resumable).
test-reliability: $(VENV)/.dev
	$(BIN)/python -m pytest tests/reliability
	$(BIN)/python tests/reliability/soak.py --kills 50

# The losses that every later version is compared with: written by this command alone.
golden: $(VENV)/.dev
	$(BIN)/python tests/reliability/golden.py --write

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The tables of docs/results.md, on the real clips of ../shared/data (hours on two cores; resumable).
results: $(VENV)/.demo
	$(BIN)/python -m data_prep jhmdb --root ../shared/data/jhmdb21 --out data/jhmdb21 --copy
	$(BIN)/python -m data_prep jhmdb --root ../shared/data/jhmdb21 --out data/jhmdb21_raw --copy --frames raw
	$(BIN)/python -m data_prep ucf101 --root ../shared/data/ucf101_6 --out data/ucf101_6 --copy
	$(BIN)/python -m vidkd.bench configs/bench/jhmdb21.yaml
	$(BIN)/python -m vidkd.bench configs/bench/ucf101_6.yaml

clean:
	rm -rf $(VENV) runs data/motion
