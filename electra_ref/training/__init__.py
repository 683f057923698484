"""Training: the loop, its optimizer, and everything a run leaves on disk."""
