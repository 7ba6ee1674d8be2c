"""Checkpoints from the original's format to the library's, and back, with a comparison of outputs at the end."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, PreTrainedModel

from .. import models
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
TOLERANCE = 1e-4
# What a network has on its encoder, by the first variable in a checkpoint that tells.
HEADS = {
    "cls/seq_relationship/output_weights": "ForPreTraining",
    "cls/predictions/output_bias": "ForMaskedLM",
    "cls/squad/output_weights": "ForQuestionAnswering",
    "output_weights": "ForSequenceClassification",
}


def convert(source: str | Path, output: str | Path, to: str = TRANSFORMERS) -> dict[str, float]:
    """Writes a student or a teacher, with any head that both formats know, in another format.

    The library's format is one for this package and for transformers; a student is compared with both.

    Args:
        source: Hub id or folder of the library's format, or the original's: a checkpoint's prefix, or its folder.
        output: A new folder.
        to: `"transformers"` or `"tensorflow"`.

    Returns:
        The largest difference of each output from that of the source, relative to the largest value; of a student
        also for stock transformers, by names that begin with `stock_`.

    Raises:
        FileExistsError: The folder is there.
        ImportError: TensorFlow is needed and not installed.
        ValueError: Source and format do not fit, or an output differs; nothing is written then.
    """
    folder = Path(output)
    if to not in (TRANSFORMERS, TENSORFLOW):
        raise ValueError(f"to={to!r}: expected {TRANSFORMERS} or {TENSORFLOW}.")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: name a new folder.")
    prefix = find_checkpoint_prefix(source)
    model, tokenizer = load_library(str(source)) if prefix is None else load_original(prefix)
    with atomic_write(folder) as aside:
        aside.mkdir(parents=True)
        if to == TRANSFORMERS:
            model.save_pretrained(aside)
            if tokenizer is not None:
                tokenizer.save_pretrained(aside)
            written, _ = load_library(str(aside))
        else:
            save_original(model, tokenizer, aside)
            written, _ = load_original(aside / CHECKPOINT)
        return compare(model, {"": written, "stock_": load_stock(aside) if to == TRANSFORMERS else None})


def find_checkpoint_prefix(source: str | Path) -> Path | None:
    """The prefix of the original's checkpoint, given as it is or by its folder; None for the library's format.

    Raises:
        ValueError: The folder has several.
    """
    path = Path(source)
    if Path(f"{path}.index").is_file():
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(path.glob("*.index"))
    if len(found) > 1:
        raise ValueError(f"{path} has several checkpoints: name one, as {found[0].with_suffix('')}.")
    return found[0].with_suffix("") if found else None


def load_original(prefix: Path) -> tuple[PreTrainedModel, Any]:
    """The network of a checkpoint with the head that it has, and its tokenizer if the vocabulary is beside it."""
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
    return model.eval(), _read_vocabulary(prefix.with_name(VOCABULARY))


def _prefix(model: PreTrainedModel) -> str:
    """An encoder alone has its parameters by their last names."""
    return "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."


def _fill(name: str, parameter: torch.Tensor, values: torch.Tensor) -> None:
    if parameter.shape != values.shape:
        raise ValueError(
            f"{name} is {tuple(values.shape)} in the checkpoint, but {tuple(parameter.shape)} by its {CONFIG}: it is "
            "another network's."
        )
    parameter.copy_(values)


def _read_vocabulary(path: Path) -> Any:
    if not path.is_file():
        return None
    words = path.read_text(encoding="utf-8").split("\n")
    uncased = all(word == word.lower() for word in words if not word.startswith("["))
    return BertTokenizer(str(path), do_lower_case=uncased)


def save_original(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Writes checkpoint, configuration, and the vocabulary if there is one."""
    config: Any = model.config
    write_config(config, folder / CONFIG)
    weights = {_prefix(model) + name: parameter for name, parameter in model.named_parameters()}
    write_variables(folder / CHECKPOINT, to_original(weights, config.normalization_type))
    # By this file TensorFlow finds a folder's checkpoint.
    atomic_write_text(folder / "checkpoint", f'model_checkpoint_path: "{CHECKPOINT}"\n')
    if tokenizer is not None:
        words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
        atomic_write_text(folder / VOCABULARY, "\n".join(words) + "\n")


def load_library(source: str) -> tuple[PreTrainedModel, Any]:
    """A network of this package in the class that it was saved in, and its tokenizer if it has one.

    Raises:
        ValueError: It is another network, or folded.
    """
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, MobileBertConfig) or config.model_type not in ("mobilebert", "ib_bert"):
        raise ValueError(f"{source} is a {config.model_type}: expected mobilebert or ib_bert.")
    [architecture] = config.architectures or ["MobileBertModel"]
    model = getattr(models, architecture).from_pretrained(source, dtype=torch.float32)
    try:
        return model.eval(), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):  # there is none
        return model.eval(), None


def load_stock(folder: Path) -> PreTrainedModel | None:
    """A student in stock transformers' class; no teacher's, which stock cannot run."""
    config = transformers.MobileBertConfig.from_pretrained(folder)
    if config.model_type != "mobilebert":
        return None
    [architecture] = config.architectures or ["MobileBertModel"]
    return getattr(transformers, architecture).from_pretrained(folder, config=config, dtype=torch.float32).eval()


@torch.inference_mode()
def compare(source: PreTrainedModel, written: dict[str, PreTrainedModel | None]) -> dict[str, float]:
    """The largest relative difference of each output, by the prefix of who gives it, on random texts without padding.

    (With padding, a network whose `[PAD]` row is not zero has another output in stock transformers than one whose
    `mask_padding` is on.)

    Raises:
        ValueError: One is more than `TOLERANCE`; names it.
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
        raise ValueError(f"What was written differs from the source in {listed}; {TOLERANCE:g} is allowed.")
    return errors
