"""Training in phases: examples of one length, then longer ones, in one run that resumes exactly."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data import PretrainingCollator, PretrainingData, PretrainingDataArguments, prepare_pretraining_data
from ..models.configuration import MobileBertConfig
from .arguments import PreTrainingArguments


@dataclass
class Phase:
    """A part of training on examples of one length, up to global step `end` (None: to the end of training)."""

    data: PretrainingDataArguments
    training: PreTrainingArguments
    examples: PretrainingData
    end: int | None

    def inputs(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The keyword arguments of the Trainer for the data."""
        data = self.data
        collator = PretrainingCollator(tokenizer, data.mlm_probability, data.whole_word_mask, seed=self.training.seed)
        return {
            "train_dataset": self.examples["train"],
            "eval_dataset": self.examples["validation"],
            "data_collator": collator,
            "processing_class": tokenizer,
        }


def plan_phases(
    data: PretrainingDataArguments,
    training: PreTrainingArguments,
    steps: int,
    tokenizer: PreTrainedTokenizerBase,
    config: MobileBertConfig,
    prompts: Sequence[str] = (),
) -> list[Phase]:
    """One phase, or two if `long_seq_length` is set, of which the second has the longer examples.

    The long phase has as many examples in a step, in smaller batches of which more are accumulated, so that no more
    tokens are in memory at a time. All data is prepared here, before training starts.

    Args:
        data: The data to prepare.
        training: The arguments of the whole run.
        steps: The number of steps of the run; below 1 if it is given in epochs.
        tokenizer: The tokenizer.
        config: The configuration of the model.
        prompts: See `prepare_pretraining_data`.

    Raises:
        ValueError: The model does not take examples this long, or there are two phases but no number of steps.
    """
    lengths = [length for length in (data.max_seq_length, data.long_seq_length) if length is not None]
    if max(lengths) > config.max_position_embeddings:
        raise ValueError(
            f"The longest examples have {max(lengths)} tokens, but the network takes "
            f"{config.max_position_embeddings}: shorten max_seq_length or long_seq_length, or make a network with "
            "more max_position_embeddings."
        )
    if data.long_seq_length is None:
        return [Phase(data, training, prepare_data(data, tokenizer, training, prompts), None)]
    if steps < 1:
        raise ValueError("long_seq_length needs max_steps: it counts in steps, not in epochs.")
    long_data = copy(data)
    long_data.max_seq_length, long_data.long_seq_length = data.long_seq_length, None
    long_training = copy(training)
    batch = training.per_device_train_batch_size
    fitting = max(batch * data.max_seq_length // data.long_seq_length, 1)
    long_training.per_device_train_batch_size = next(size for size in range(fitting, 0, -1) if batch % size == 0)
    long_training.gradient_accumulation_steps *= batch // long_training.per_device_train_batch_size
    short_examples = prepare_data(data, tokenizer, training, prompts)
    return [
        Phase(data, training, short_examples, steps - round(data.long_seq_ratio * steps)),
        Phase(long_data, long_training, prepare_data(long_data, tokenizer, training, prompts), None),
    ]


def prepare_data(
    data: PretrainingDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    training: PreTrainingArguments,
    prompts: Sequence[str],
) -> PretrainingData:
    """The examples, prepared by one process and read from its cache by the others."""
    with training.main_process_first(desc="preparing the corpus"):
        return prepare_pretraining_data(data, tokenizer, prompts)
