"""Downstream tasks: GLUE with sweeps, SQuAD, adapters, texts of a pair together or apart."""
