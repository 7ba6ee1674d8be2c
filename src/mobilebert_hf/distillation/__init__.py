"""Layer-wise knowledge transfer from the IB-BERT teacher to the MobileBERT student, then distillation."""
