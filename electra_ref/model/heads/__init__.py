"""What stands on top of an encoder: a file for each head, with its specs and its gradient."""
