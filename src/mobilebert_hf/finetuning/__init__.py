"""Fine-tuning on GLUE, with sweeps and as cross-encoder or bi-encoder, and on SQuAD; PEFT adapters."""
