"""Pre-training from raw text: one call from a corpus to a model. It is distillation without a teacher."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase, set_seed

from ..data import PretrainingDataArguments, check_vocabulary, load_tokenizer, train_wordpiece
from ..data.vocabulary import CHARACTER_COVERAGE
from ..files import atomic_write
from ..models.configuration import PRESETS, IBBertConfig, MobileBertConfig
from ..progress import show_progress
from ..recipe import parse_mapping
from ..runs.run_folder import open_run_folder
from ..training.arguments import PreTrainingArguments
from ..training.phases import Phase, plan_phases
from .trainer import DistillationTrainer, run_phases


@dataclass
class ModelArguments:
    """The model to pre-train, and its vocabulary."""

    preset: str = field(
        default="ib-bert-large", metadata={"help": f"Configuration of the paper: one of {', '.join(PRESETS)}."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Fields of the configuration to change: JSON on the command line, a mapping in YAML."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of a tokenizer, or a vocab.txt. By default a WordPiece vocabulary is trained on "
            "the corpus."
        },
    )
    vocab_size: int = field(default=30_522, metadata={"help": "Size of the vocabulary to train."})
    lowercase: bool = field(default=True, metadata={"help": "Whether the vocabulary to train is uncased."})
    strip_accents: bool = field(
        default=False, metadata={"help": "Whether the vocabulary to train is without accents and other marks."}
    )
    character_coverage: float = field(
        default=CHARACTER_COVERAGE,
        metadata={"help": "Share of the corpus' characters that the vocabulary to train represents."},
    )

    def build_config(self, **fixed: Any) -> MobileBertConfig:
        """The configuration of the preset with the overrides and the `fixed` fields, which take precedence.

        Raises:
            ValueError: The preset or a field is unknown, or a value is not allowed.
        """
        family = IBBertConfig if self.preset.startswith("ib-bert") else MobileBertConfig
        overrides = parse_mapping("config_overrides", self.config_overrides)
        known = set(family().to_dict())
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"config_overrides: {', '.join(unknown)} are not fields of {family.__name__}.")
        return family.from_preset(self.preset, **{**overrides, **fixed})


# The dataclasses of the recipe, in the order of `pretrain`'s parameters.
RECIPE_ARGUMENTS = (ModelArguments, PretrainingDataArguments, PreTrainingArguments)


def pretrain(
    model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments
) -> DistillationTrainer:
    """Pre-trains a model from scratch on raw text and saves it with its tokenizer to `training.output_dir`.

    Resumes from the last complete checkpoint there, if there is one. Writes the evaluation to `eval_results.json`.

    Returns:
        The trainer, after training and evaluation.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        ValueError: The corpus, the model and the arguments do not match; raised before training starts.
    """
    set_seed(training.seed)
    tokenizer = load_or_train_tokenizer(model, data, training)
    config = model.build_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    check_vocabulary(tokenizer, config)

    def make_trainer(phase: Phase) -> DistillationTrainer:
        set_seed(training.seed)
        trainer = DistillationTrainer(
            AutoModelForPreTraining.from_config(config), None, phase.training, **phase.inputs(tokenizer)
        )
        show_progress(trainer, f"pre-training {model.preset}")
        return trainer

    phases = plan_phases(data, training, training.max_steps, tokenizer, config)
    with open_run_folder(training, (model, data, training)):
        trainer = run_phases(make_trainer, phases)
        trainer.finish()
    return trainer


def load_or_train_tokenizer(
    model: ModelArguments, data: PretrainingDataArguments, training: PreTrainingArguments
) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.tokenizer`, or one trained on the corpus and kept in `output_dir/tokenizer`."""
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    folder = Path(training.output_dir or ".") / "tokenizer"
    with training.main_process_first(desc="training the vocabulary"):
        if not folder.is_dir():
            with atomic_write(folder) as aside:
                train_wordpiece(
                    data.corpus,
                    model.vocab_size,
                    aside,
                    lowercase=model.lowercase,
                    strip_accents=model.strip_accents,
                    character_coverage=model.character_coverage,
                    text_column=data.text_column,
                    encoding_errors=data.encoding_errors,
                )
    return load_tokenizer(folder)
