"""Models in the Hugging Face format: reading and writing its directories, one subject a file."""
