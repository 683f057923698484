"""Timings, each a command: ``python -m benchmarks.<name>``. None of them is a test."""
