"""From raw text to packed token ids."""
