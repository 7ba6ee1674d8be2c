"""Training arguments of pre-training, which distillation extends."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class PreTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and the choice of the paper's optimizer."""

    use_lamb: bool = field(
        default=False,
        metadata={
            "help": "Use LAMB as in the original code in place of `optim`, with adam_beta1, adam_beta2, adam_epsilon "
            "and weight_decay. LAMB is for large batches (2048 and more in the paper)."
        },
    )
