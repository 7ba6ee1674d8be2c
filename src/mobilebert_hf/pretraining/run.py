"""One call from a corpus to a pre-trained network; what the recipe and the demo run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict
from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..data import (
    PretrainingCollator,
    PretrainingDataArguments,
    check_vocabulary,
    load_tokenizer,
    prepare_pretraining_data,
    train_wordpiece,
)
from ..models.configuration import PRESETS, IBBertConfig, MobileBertConfig
from ..progress import show_progress
from .trainer import PreTrainer, PreTrainingArguments


@dataclass
class ModelArguments:
    r"""Which network to make, and its vocabulary.

    Args:
        preset (`str`, *optional*, defaults to `"ib-bert-large"`):
            One of the paper's configurations, a key of `PRESETS`.
        config_overrides (`str` or `dict`, *optional*):
            Fields of the configuration to change; JSON on the command line, a mapping in YAML.
        tokenizer (`str`, *optional*):
            Hub id or folder of a tokenizer, or a `vocab.txt`. Without it a WordPiece vocabulary is trained on the
            corpus.
        vocab_size (`int`, *optional*, defaults to 30522):
            Size of the vocabulary to train.
        lowercase (`bool`, *optional*, defaults to `True`):
            Whether the vocabulary to train is uncased.
    """

    preset: str = field(default="ib-bert-large", metadata={"help": f"One of {', '.join(PRESETS)}."})
    config_overrides: str | None = field(default=None, metadata={"help": "Fields of the configuration, as JSON."})
    tokenizer: str | None = field(default=None, metadata={"help": "Hub id, folder or vocab.txt; none: train one."})
    vocab_size: int = field(default=30_522, metadata={"help": "Size of the vocabulary to train."})
    lowercase: bool = field(default=True, metadata={"help": "Whether the vocabulary to train is uncased."})

    def build_config(self, **fixed: Any) -> MobileBertConfig:
        """The preset's configuration with the overrides and, winning over them, `fixed` fields.

        Raises:
            ValueError: The preset or a field is unknown, or a value is not allowed.
        """
        family = IBBertConfig if self.preset.startswith("ib-bert") else MobileBertConfig
        overrides = parse_overrides(self.config_overrides)
        known = set(family().to_dict())
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"config_overrides: {', '.join(unknown)} are not fields of {family.__name__}.")
        return family.from_preset(self.preset, **{**overrides, **fixed})


def parse_overrides(overrides: str | dict[str, Any] | None) -> dict[str, Any]:
    """A mapping from YAML as it is, JSON from the command line parsed, nothing as an empty mapping."""
    if overrides is None or isinstance(overrides, dict):
        return overrides or {}
    try:
        parsed = json.loads(overrides)
    except json.JSONDecodeError as error:
        example = '{"hidden_size": 256}'
        raise ValueError(f"config_overrides={overrides!r} is not JSON ({error}); write it as {example}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"config_overrides={overrides!r} must be a JSON object of configuration fields.")
    return parsed


# What the recipe's YAML file and command line are made of, in the order `pretrain` takes them.
RECIPE_ARGUMENTS = (ModelArguments, PretrainingDataArguments, PreTrainingArguments)


def pretrain(model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments) -> PreTrainer:
    """Pre-trains a network from scratch on raw text and saves it with its tokenizer to `training.output_dir`.

    Goes on from the last checkpoint there, if there is one. Writes the evaluation to `eval_results.json`.

    Returns:
        The trainer, after training and evaluation.
    """
    set_seed(training.seed)
    tokenizer = load_or_train_tokenizer(model, data, training)
    config = model.build_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    check_vocabulary(tokenizer, config)
    examples = prepare(data, tokenizer, training)
    trainer = PreTrainer(
        model=AutoModelForPreTraining.from_config(config),
        args=training,
        **training_inputs(examples, data, tokenizer, training.seed),
    )
    show_progress(trainer, f"pre-training {model.preset}")
    return run(trainer)


def load_or_train_tokenizer(
    model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments
) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, or one trained on the corpus, kept in `output_dir/tokenizer` and found there."""
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    folder = Path(training.output_dir or ".") / "tokenizer"
    with training.main_process_first(desc="training the vocabulary"):
        if not folder.is_dir():
            train_wordpiece(
                data.corpus,
                model.vocab_size,
                folder,
                lowercase=model.lowercase,
                text_column=data.text_column,
                encoding_errors=data.encoding_errors,
            )
    return load_tokenizer(folder)


def prepare(
    data: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase, training: PreTrainingArguments
) -> DatasetDict | IterableDatasetDict:
    """The examples, prepared by one process and read from its cache by the others."""
    with training.main_process_first(desc="preparing the corpus"):
        return prepare_pretraining_data(data, tokenizer)


def training_inputs(
    examples: DatasetDict | IterableDatasetDict,
    data: PretrainingDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
) -> dict[str, Any]:
    """The Trainer's keywords for the data."""
    return {
        "train_dataset": examples["train"],
        "eval_dataset": examples["validation"],
        "data_collator": PretrainingCollator(tokenizer, data.mlm_probability, data.whole_word_mask, seed=seed),
        "processing_class": tokenizer,
    }


def run(trainer: PreTrainer) -> PreTrainer:
    """Trains (from the last checkpoint, if there is one), evaluates, and saves model, metrics and state."""
    output_dir = trainer.args.output_dir or "."
    checkpoint = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("eval", trainer.evaluate(), combined=False)
    return trainer
