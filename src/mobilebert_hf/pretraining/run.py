"""One call from a corpus to a pre-trained network; what the recipe and the demo run."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase, set_seed

from ..data import (
    PretrainingCollator,
    PretrainingData,
    PretrainingDataArguments,
    check_vocabulary,
    load_tokenizer,
    prepare_pretraining_data,
    train_wordpiece,
)
from ..files import written_aside
from ..models.configuration import PRESETS, IBBertConfig, MobileBertConfig
from ..progress import show_progress
from ..recipe import parse_mapping
from ..runs.checkpoints import step_of
from ..runs.facts import hub_ids
from ..runs.run_folder import find_checkpoint, open_run_folder
from ..training.durable import EndAt
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
        overrides = parse_mapping("config_overrides", self.config_overrides)
        known = set(family().to_dict())
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"config_overrides: {', '.join(unknown)} are not fields of {family.__name__}.")
        return family.from_preset(self.preset, **{**overrides, **fixed})


AnyTrainer = TypeVar("AnyTrainer", bound=PreTrainer)

# What the recipe's YAML file and command line are made of, in the order `pretrain` takes them.
RECIPE_ARGUMENTS = (ModelArguments, PretrainingDataArguments, PreTrainingArguments)


def pretrain(model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments) -> PreTrainer:
    """Pre-trains a network from scratch on raw text and saves it with its tokenizer to `training.output_dir`.

    Goes on from the last whole checkpoint there, if there is one. Writes the evaluation to `eval_results.json`.

    Returns:
        The trainer, after training and evaluation.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was written.
        ValueError: The corpus, the network and the arguments do not fit; before training starts.
    """
    set_seed(training.seed)
    tokenizer = load_or_train_tokenizer(model, data, training)
    config = model.build_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    check_vocabulary(tokenizer, config)

    def make_trainer(phase: Phase) -> PreTrainer:
        set_seed(training.seed)
        trainer = PreTrainer(
            model=AutoModelForPreTraining.from_config(config), args=phase.training, **phase.inputs(tokenizer)
        )
        show_progress(trainer, f"pre-training {model.preset}")
        return trainer

    phases = plan_phases(data, training, training.max_steps, tokenizer, config)
    with open_run_folder(training, (model, data, training)):
        trainer = run(make_trainer, phases)
        trainer.finish()
    return trainer


def load_or_train_tokenizer(
    model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments
) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, or one trained on the corpus, kept in `output_dir/tokenizer` and found there."""
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    folder = Path(training.output_dir or ".") / "tokenizer"
    with training.main_process_first(desc="training the vocabulary"):
        if not folder.is_dir():
            with written_aside(folder) as aside:
                train_wordpiece(
                    data.corpus,
                    model.vocab_size,
                    aside,
                    lowercase=model.lowercase,
                    text_column=data.text_column,
                    encoding_errors=data.encoding_errors,
                )
    return load_tokenizer(folder)


@dataclass
class Phase:
    """A part of training on examples of one length, up to global step `end` (None: to the end)."""

    data: PretrainingDataArguments
    training: PreTrainingArguments
    examples: PretrainingData
    end: int | None

    def inputs(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The Trainer's keywords for the data."""
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
) -> list[Phase]:
    """One phase; or two where `long_seq_length` is set, the second one with the longer examples.

    The long phase takes the same examples in a step, in smaller batches and more of them accumulated, so that no
    more tokens are in memory at a time. All data is prepared here, before training starts.

    Args:
        data: What to prepare.
        training: Of the whole run.
        steps: How many steps the run has; below 1 where epochs are counted instead.
        tokenizer: The tokenizer.
        config: The network's.

    Raises:
        ValueError: The network does not take examples this long, or two phases are asked for without a number of
            steps.
    """
    lengths = [length for length in (data.max_seq_length, data.long_seq_length) if length is not None]
    if max(lengths) > config.max_position_embeddings:
        raise ValueError(
            f"The longest examples have {max(lengths)} tokens, but the network takes "
            f"{config.max_position_embeddings}: shorten max_seq_length or long_seq_length, or make a network with "
            "more max_position_embeddings."
        )
    if data.long_seq_length is None:
        return [Phase(data, training, prepare(data, tokenizer, training), None)]
    if steps < 1:
        raise ValueError("long_seq_length needs max_steps: it counts in steps, not in epochs.")
    long_data = replace(data, max_seq_length=data.long_seq_length, long_seq_length=None)
    long_training = copy(training)
    batch = training.per_device_train_batch_size
    fitting = max(batch * data.max_seq_length // data.long_seq_length, 1)
    long_training.per_device_train_batch_size = next(size for size in range(fitting, 0, -1) if batch % size == 0)
    long_training.gradient_accumulation_steps *= batch // long_training.per_device_train_batch_size
    return [
        Phase(data, training, prepare(data, tokenizer, training), steps - round(data.long_seq_ratio * steps)),
        Phase(long_data, long_training, prepare(long_data, tokenizer, training), None),
    ]


def prepare(
    data: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase, training: PreTrainingArguments
) -> PretrainingData:
    """The examples, prepared by one process and read from its cache by the others."""
    with training.main_process_first(desc="preparing the corpus"):
        return prepare_pretraining_data(data, tokenizer)


def run(make_trainer: Callable[[Phase], AnyTrainer], phases: Sequence[Phase]) -> AnyTrainer:
    """Trains phase by phase from the last whole checkpoint on, evaluates, and saves model, metrics and state.

    Args:
        make_trainer: From a phase to its trainer, with a new network each time.
        phases: At least one.
    """
    for phase in phases:
        checkpoint = find_checkpoint(phase.training)
        if phase.end is not None and checkpoint is not None and step_of(checkpoint) >= phase.end:
            continue
        trainer = make_trainer(phase)
        trainer.facts = replace(trainer.facts, datasets=hub_ids(phase.data.corpus))
        if phase.end is not None:
            trainer.add_callback(EndAt(phase.end))
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_final_model()
    trainer.save_state()
    trainer.save_metrics("eval", trainer.evaluate(), combined=False)
    return trainer
