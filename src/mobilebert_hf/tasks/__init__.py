"""What networks are for: tables of heads and of GLUE's tasks, their data, answers, scores and metrics."""
