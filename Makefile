# Everything a person needs: `make demo` and `make test`. Both make .venv and install into it what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test
