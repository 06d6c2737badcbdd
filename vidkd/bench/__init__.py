"""Grids of ordinary runs: grid.py describes one, claims.py says whose a cell is, state.py whether it has to run, run.py
runs it, table.py makes the table."""
