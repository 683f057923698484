"""The kinds of task: a file for each, with what ``finetuning.task.Task`` lists."""
