"""Fine-tuning: an encoder and a task head learn from labelled data; a file for each kind."""
