"""Loads a student for export and creates the inputs for tracing it."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from ..models import IBBertConfig, MobileBertConfig
from ..tasks.heads import Task, find_task

# `torch.export` specializes sizes of 1, which the trigram input has for two tokens. Exported graphs accept 1 and 2.
MIN_LENGTH = 3
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load_student(model: str | Path) -> tuple[PreTrainedModel, Task]:
    """Loads a student with the head it was saved with, in float32 and evaluation mode.

    Raises:
        ValueError: The model is not a MobileBERT, or its head cannot be exported or has no saved weights.
    """
    config = AutoConfig.from_pretrained(str(model))
    if not isinstance(config, transformers.MobileBertConfig) or isinstance(config, IBBertConfig):
        raise ValueError(f"{model} has model_type={config.model_type!r}: expected a student, 'mobilebert'.")
    task = find_task((config.architectures or ["Model"])[0])
    # Feature extraction does not use the pooler, and not every checkpoint has one.
    options = {"add_pooling_layer": False} if task.auto_class == "AutoModel" else {}
    loaded, found = getattr(transformers, task.auto_class).from_pretrained(
        str(model), dtype=torch.float32, output_loading_info=True, **options
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{model} has no weights for {', '.join(missing)}. Save it with all weights of {type(loaded).__name__}."
        )
    return loaded.eval(), task


def unfolded_config(config: Any) -> Any:
    """Returns the configuration of a student before folding, which other tools can read."""
    fields = config.to_dict()
    if fields.pop("model_type") == MobileBertConfig.model_type:
        return config
    for name in ("scaled_residuals", "quantization_aware"):
        del fields[name]
    fields["architectures"] = [name.removeprefix("Folded") for name in config.architectures or []]
    return MobileBertConfig.from_dict(fields)


def graph_inputs(model: Any) -> tuple[str, ...]:
    """Returns the names of a graph's inputs: without token types if there is one, which tokenizers do not give."""
    return INPUTS if getattr(model.config, "type_vocab_size", 2) > 1 else INPUTS[:2]


def dynamic_shapes(model: PreTrainedModel, rows: int | None = None) -> dict[str, dict[int, Any]]:
    """Returns `dynamic_shapes` for `torch.export`: any length up to the maximum, any batch size or `rows`."""
    open_sizes = {1: torch.export.Dim("sequence", min=MIN_LENGTH, max=model.config.max_position_embeddings)}
    if rows is None:
        open_sizes[0] = torch.export.Dim("batch")
    return dict.fromkeys(graph_inputs(model), open_sizes)


def example_inputs(model: PreTrainedModel, rows: int = 2) -> dict[str, Any]:
    """Returns the inputs for tracing."""
    values = sample_inputs(model, rows, min(16, model.config.max_position_embeddings))
    return {name: values[name] for name in graph_inputs(model)}


def sample_inputs(model: Any, rows: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns random inputs [rows, length], int64. The first sequence is full length; the others are padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(max(length // 2, 1), length + 1, (rows, 1), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    ids = torch.randint(1, model.config.vocab_size, (rows, length), generator=generator)
    types = (torch.arange(length) > length // 3).long().expand(rows, -1)
    # A student of a teacher without token types has one token type.
    types = types.clamp(max=getattr(model.config, "type_vocab_size", 2) - 1)
    padding = model.config.pad_token_id or 0
    values = (torch.where(mask.bool(), ids, padding), mask, types * mask)
    return dict(zip(INPUTS, values, strict=True))
