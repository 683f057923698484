"""The tasks: a file for each, with what ``prediction.task.Task`` lists."""
