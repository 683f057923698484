"""ELECTRA pre-training, written by hand: see README.md for the map of the code."""

__version__ = "0.1.0"
