"""ELECTRA pre-training as a kind of run: its data, its steps, its figures, its samples."""
