"""Tasks: the tables of heads and of GLUE tasks, GLUE data, SQuAD answers, and metrics."""
