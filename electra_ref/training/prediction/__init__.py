"""What a trained model says of texts, line by line: a file for each task, and what all share."""
