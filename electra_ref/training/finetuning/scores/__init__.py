"""How right predictions are: a file for each measure that no library has."""
