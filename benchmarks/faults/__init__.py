"""Faults, injected into a running segloop: `python -m benchmarks.faults` writes docs/RELIABILITY.md's tables of them."""
