"""Converts checkpoints between the original format and transformers, and compares the outputs."""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from .. import models
from ..data.vocabulary import load_vocabulary
from ..data.vocabulary_file import write_vocabulary
from ..deployment.student import sample_inputs
from ..files import atomic_write, atomic_write_text
from ..models.configuration import MobileBertConfig
from .original import (
    CONFIG,
    VOCABULARY,
    from_original,
    read_config,
    read_variables,
    to_original,
    write_config,
    write_variables,
)

TENSORFLOW, TRANSFORMERS = "tensorflow", "transformers"
CHECKPOINT = "model.ckpt"
INDEX = "checkpoint"  # names the latest checkpoint of a folder
TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TOLERANCE = 1e-4
# Model head by a variable that only checkpoints with this head have. The first match counts.
HEADS = {
    "cls/seq_relationship/output_weights": "ForPreTraining",
    "cls/predictions/output_bias": "ForMaskedLM",
    "cls/squad/output_weights": "ForQuestionAnswering",
    "output_weights": "ForSequenceClassification",
}


def convert(source: str | Path, output: str | Path, to: str = TRANSFORMERS) -> dict[str, float]:
    """Converts a student or a teacher with any head that both formats support.

    A student in transformers format is compared in this package and in stock transformers. Nothing is written if an
    output differs.

    Args:
        source: Hub id or folder of a transformers model, or prefix or folder of an original checkpoint.
        output: A new folder.
        to: `"transformers"` or `"tensorflow"`.

    Returns:
        The largest error of each output, relative to its largest value. Names with the prefix `stock_` are outputs of
        stock transformers.

    Raises:
        FileExistsError: `output` exists.
        ImportError: TensorFlow is needed but not installed.
        ValueError: `to` is unknown, the source cannot be converted, or an output differs.
    """
    folder = Path(output)
    if to not in (TRANSFORMERS, TENSORFLOW):
        raise ValueError(f"to={to!r}: expected {TRANSFORMERS} or {TENSORFLOW}.")
    if folder.exists():
        raise FileExistsError(f"{folder} exists. Choose a new folder.")
    prefix = find_checkpoint_prefix(source)
    model, tokenizer = load_transformers(str(source)) if prefix is None else load_original(prefix)
    with atomic_write(folder) as staging:
        staging.mkdir(parents=True)
        if to == TRANSFORMERS:
            model.save_pretrained(staging)
            if tokenizer is not None:
                tokenizer.save_pretrained(staging)
            written, _ = load_transformers(str(staging))
        else:
            save_original(model, tokenizer, staging)
            written, _ = load_original(staging / CHECKPOINT)
        return compare(model, {"": written, "stock_": load_stock(staging) if to == TRANSFORMERS else None})


def find_checkpoint_prefix(source: str | Path) -> Path | None:
    """Returns the prefix of an original checkpoint from its prefix or folder; None for a transformers model.

    Raises:
        ValueError: The folder has several checkpoints.
    """
    path = Path(source)
    if Path(f"{path}.index").is_file():
        return path
    found = sorted(path.glob("*.index"))
    if not found or any((path / name).is_file() for name in TRANSFORMERS_WEIGHTS):
        return None
    latest = re.search(r'^model_checkpoint_path: "(.+)"', _read_text(path / INDEX), re.MULTILINE)
    if latest and (path / f"{Path(latest[1]).name}.index").is_file():
        return path / Path(latest[1]).name
    if len(found) > 1:
        raise ValueError(f"{path} has several checkpoints. Pass one prefix, such as {found[0].with_suffix('')}.")
    return found[0].with_suffix("")


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def load_original(prefix: Path) -> tuple[PreTrainedModel, Any]:
    """Loads the model of a checkpoint with its head, and its tokenizer if `vocab.txt` exists, else None."""
    config = read_config(prefix.with_name(CONFIG))
    variables = read_variables(prefix)
    head = next((head for variable, head in HEADS.items() if variable in variables), "Model")
    if head == "ForSequenceClassification":
        config.num_labels = len(variables["output_weights"])
    family = "IBBert" if config.model_type == "ib_bert" else "MobileBert"
    model = getattr(models, f"{family}{head}")(config)
    names = [_prefix(model) + name for name, _ in model.named_parameters()]
    weights = from_original(variables, names, config.normalization_type)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _fill(name, parameter, weights[_prefix(model) + name])
    vocabulary = prefix.with_name(VOCABULARY)
    return model.eval(), load_vocabulary(vocabulary) if vocabulary.is_file() else None


def _prefix(model: PreTrainedModel) -> str:
    """Returns the prefix that parameter names of a model without head lack."""
    return "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."


def _fill(name: str, parameter: torch.Tensor, values: torch.Tensor) -> None:
    if parameter.shape != values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)} in the checkpoint: expected {tuple(parameter.shape)} by "
            f"{CONFIG}. Use the {CONFIG} of this checkpoint."
        )
    parameter.copy_(values)


def save_original(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Writes the checkpoint, its configuration, and the vocabulary if there is a tokenizer."""
    config: Any = model.config
    write_config(config, folder / CONFIG)
    weights = {_prefix(model) + name: parameter for name, parameter in model.named_parameters()}
    write_variables(folder / CHECKPOINT, to_original(weights, config.normalization_type))
    atomic_write_text(folder / INDEX, f'model_checkpoint_path: "{CHECKPOINT}"\n')
    if tokenizer is not None:
        write_vocabulary(tokenizer.get_vocab(), folder / VOCABULARY)


def load_transformers(source: str) -> tuple[PreTrainedModel, Any]:
    """Loads a transformers model in this package's version of its class, and its tokenizer if it has one, else None.

    Raises:
        ValueError: The model is not a MobileBERT or IB-BERT, or it is folded.
    """
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, MobileBertConfig) or config.model_type not in ("mobilebert", "ib_bert"):
        raise ValueError(f"{source} has model_type={config.model_type!r}: expected 'mobilebert' or 'ib_bert'.")
    [architecture] = config.architectures or ["MobileBertModel"]
    model = getattr(models, architecture).from_pretrained(source, dtype=torch.float32)
    try:
        return model.eval(), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):  # no tokenizer
        return model.eval(), None


def load_stock(folder: Path) -> PreTrainedModel | None:
    """Loads a student in its stock transformers class. Returns None for a teacher, which stock cannot run."""
    config = transformers.MobileBertConfig.from_pretrained(folder)
    if config.model_type != "mobilebert":
        return None
    [architecture] = config.architectures or ["MobileBertModel"]
    return getattr(transformers, architecture).from_pretrained(folder, config=config, dtype=torch.float32).eval()


@torch.inference_mode()
def compare(source: PreTrainedModel, written: dict[str, PreTrainedModel | None]) -> dict[str, float]:
    """Compares the outputs of models with those of the source.

    The inputs have no padding: with padding, stock transformers differs from a model with `mask_padding` if the
    `[PAD]` embedding is not zero.

    Args:
        source: The converted model.
        written: Models to compare, by the prefix of their names in the result. None is skipped.

    Returns:
        The largest error of each output, relative to its largest value.

    Raises:
        ValueError: An error exceeds `TOLERANCE`.
    """
    inputs = sample_inputs(source, 1, min(64, source.config.max_position_embeddings))
    expected = source(**inputs)
    errors = {}
    for prefix, model in written.items():
        if model is None:
            continue
        for name, value in model(**inputs).items():
            difference = (value - expected[name]).abs().max() / expected[name].abs().max()
            errors[f"{prefix}{name}"] = difference.item()
    if wrong := {name: error for name, error in errors.items() if not error <= TOLERANCE}:
        listed = ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items())
        raise ValueError(f"The converted model differs from the source in {listed}; {TOLERANCE:g} is allowed.")
    return errors
