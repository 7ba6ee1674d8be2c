"""The shape of a student, which follows from the teacher's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ..models.configuration import MobileBertConfig
from ..models.modeling_mobilebert import MobileBertModel
from .costs import forward_flops
from .teachers import find_layers

# Sizes inside a block; all others are those of the teacher. Attention heads have 32 channels, as in the paper.
SIZES: dict[str, dict[str, int]] = {
    "base": {"intra_bottleneck_size": 128, "intermediate_size": 512, "num_feedforward_networks": 4},
    "small": {"intra_bottleneck_size": 128, "intermediate_size": 512, "num_feedforward_networks": 2},
    "tiny": {"intra_bottleneck_size": 64, "intermediate_size": 256, "num_feedforward_networks": 2},
}
EMBEDDING_SIZE = 128
HEAD_SIZE = 32


class Shape(NamedTuple):
    """A student's configuration, and for each of its layers the index of the teacher's that it learns from."""

    config: MobileBertConfig
    mapping: tuple[int, ...]


def student_shape(
    teacher: PreTrainedModel,
    size: str = "small",
    layers: str = "all",
    overrides: Mapping[str, Any] | None = None,
    **inputs: int,
) -> Shape:
    """The shape of a student: inter-block width, vocabulary, positions and token types are those of the teacher.

    Args:
        teacher: An encoder, with or without a head.
        size: A key of `SIZES`.
        layers: `"all"` is one to one; `"half"` every second layer, the last one among them; or the teacher's layer
            for each layer of the student, from 0 on, as `"1,3,5"` or, several to one, `"0,0,1,1"`.
        overrides: Other fields of `MobileBertConfig`.
        inputs: Fields that follow from the tokenizer and the training texts, in place of the teacher's:
            `max_position_embeddings`, `type_vocab_size`, `pad_token_id`.

    Raises:
        ValueError: The size, the layers or a field are not allowed.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r} is not one of {', '.join(SIZES)}.")
    mapping = _mapping(layers, len(find_layers(teacher)))
    config = teacher.config
    fields = {
        **SIZES[size],
        "embedding_size": min(EMBEDDING_SIZE, config.hidden_size),
        "normalization_type": "no_norm",
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.0,
        "classifier_activation": False,
        **(overrides or {}),
    }
    fields.setdefault("num_attention_heads", max(1, fields["intra_bottleneck_size"] // HEAD_SIZE))
    fixed = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(mapping),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": count_positions(teacher),
        "type_vocab_size": max(1, getattr(config, "type_vocab_size", 0) or 0),
        "pad_token_id": config.pad_token_id,
        **inputs,
    }
    if conflicts := sorted(set(fixed) & set(overrides or {})):
        raise ValueError(f"{', '.join(conflicts)} follow from the teacher and the layers: leave them out.")
    if unknown := sorted(set(fields) - set(MobileBertConfig().to_dict())):
        raise ValueError(f"{', '.join(unknown)} are not fields of MobileBertConfig.")
    return Shape(MobileBertConfig(**fields, **fixed), mapping)


def position_table(teacher: PreTrainedModel) -> nn.Embedding | None:
    """The table of positions, if the teacher has one."""
    table = getattr(getattr(teacher.base_model, "embeddings", None), "position_embeddings", None)
    return table if isinstance(table, nn.Embedding) else None


def count_positions(teacher: PreTrainedModel) -> int | None:
    """The most tokens that the teacher reads; None if there is no such number.

    In RoBERTa the table of positions begins with unused rows, up to the padding index.
    """
    table = position_table(teacher)
    if table is None:
        limit = getattr(teacher.config, "max_position_embeddings", None)
        return limit if limit and limit > 0 else None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def compare_sizes(config: MobileBertConfig, teacher: PreTrainedModel, length: int) -> list[list[str]]:
    """Table rows with the parameters of both encoders and their FLOPs for a sequence of `length` tokens."""
    student = MobileBertModel(config, add_pooling_layer=False)
    rows = []
    networks: dict[str, Any] = {"teacher": teacher.base_model, "student": student}
    for name, network in networks.items():
        size, flops = count_parameters(network), forward_flops(network, length, length)
        rows.append([name, str(len(find_layers(network))), f"{size / 1e6:.1f}M", f"{flops / 1e9:.2f}G"])
    return [["", "layers", "parameters", f"FLOPs for {length} tokens"], *rows]


def count_parameters(encoder: nn.Module) -> int:
    """The number of parameters of an encoder with its embeddings, without a pooler."""
    return sum(value.numel() for name, value in encoder.named_parameters() if not name.startswith("pooler."))


def _mapping(layers: str, count: int) -> tuple[int, ...]:
    if layers == "all":
        return tuple(range(count))
    if layers == "half":
        return tuple(range(count - 1, -1, -2))[::-1]
    words: Sequence[str] = str(layers).split(",")
    if not all(word.strip().isdigit() and int(word) < count for word in words):
        raise ValueError(
            f"layers={layers!r} must be all, half, or indices from 0 to {count - 1} of the teacher's layers, as "
            f"{','.join(map(str, range(1, count, 2)))}."
        )
    mapping = tuple(int(word) for word in words)
    if list(mapping) != sorted(mapping):
        raise ValueError(
            f"layers={layers!r} must be ascending: a layer of the student learns from a layer above those before it."
        )
    return mapping
