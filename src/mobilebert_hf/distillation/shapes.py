"""The shape of a student, which follows from the teacher's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from ..models.configuration import MobileBertConfig
from ..models.modeling_mobilebert import MobileBertModel
from .costs import forward_flops
from .layer_pruning import check_prunable, read_bert_layer
from .teachers import find_layers

# The paper's blocks, by the widths inside them; all others are those of the teacher. Heads have 32 channels.
BOTTLENECKS: dict[str, dict[str, int]] = {
    "base": {"intra_bottleneck_size": 128, "intermediate_size": 512, "num_feedforward_networks": 4},
    "small": {"intra_bottleneck_size": 128, "intermediate_size": 512, "num_feedforward_networks": 2},
    "tiny": {"intra_bottleneck_size": 64, "intermediate_size": 256, "num_feedforward_networks": 2},
}
# Some layers of the teacher, without bottlenecks: with fewer neurons and a narrow embedding table, or as they are. The
# share of the neurons that is left.
NEURONS = {"pruned": 1 / 3, "kept": 1.0}
SIZES = (*NEURONS, *BOTTLENECKS)
EMBEDDING_SIZE = 128
HEAD_SIZE = 32


class Shape(NamedTuple):
    """A student's configuration, and for each of its layers the index of the teacher's that it learns from."""

    config: MobileBertConfig
    mapping: tuple[int, ...]


def student_shape(
    teacher: PreTrainedModel,
    size: str = "auto",
    layers: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    **inputs: int,
) -> Shape:
    """The shape of a student: inter-block width, vocabulary, positions and token types are those of the teacher.

    Args:
        teacher: An encoder, with or without a head.
        size: One of `SIZES`. `"auto"` is `"pruned"` for a teacher with the layers of BERT, else `"small"`.
        layers: `"all"` is one to one; `"half"` every second layer, the last one among them; or the teacher's layer
            for each layer of the student, from 0 on, as `"1,3,5"` or, several to one, `"0,0,1,1"`. `"auto"` is half
            of the layers for `"pruned"` and `"kept"` (see `choose_layers`), else `"all"`.
        overrides: Other fields of `MobileBertConfig`.
        inputs: Fields that follow from the tokenizer and the training texts, in place of the teacher's:
            `max_position_embeddings`, `type_vocab_size`, `pad_token_id`.

    Raises:
        ValueError: The size, the layers or a field are not allowed.
    """
    if size not in ("auto", *SIZES):
        raise ValueError(f"size={size!r} is not one of auto, {', '.join(SIZES)}.")
    size = choose_size(teacher, size)
    count = len(find_layers(teacher))
    if layers == "auto":
        layers = ",".join(map(str, choose_layers(count))) if size in NEURONS else "all"
    mapping = _mapping(layers, count)
    config = teacher.config
    fields = {
        **(_pruned_fields(teacher, NEURONS[size]) if size in NEURONS else _bottleneck_fields(size)),
        "embedding_size": config.hidden_size if size == "kept" else min(EMBEDDING_SIZE, config.hidden_size),
        "hidden_dropout_prob": 0.0,
        "classifier_activation": False,
        **(overrides or {}),
    }
    if size in NEURONS and fields.get("num_feedforward_networks", 1) != 1:
        raise ValueError(f"size={size!r} has one feed-forward network per layer: leave num_feedforward_networks out.")
    fields.setdefault("num_attention_heads", max(1, fields.get("intra_bottleneck_size", 0) // HEAD_SIZE))
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


def choose_size(teacher: PreTrainedModel, size: str) -> str:
    """`size`, or for `"auto"` that which the teacher allows.

    Raises:
        ValueError: `size` is a key of `NEURONS`, and the teacher does not have the layers of BERT.
    """
    if size in BOTTLENECKS:
        return size
    try:
        check_prunable(teacher)
    except ValueError as error:
        if size == "auto":
            return "small"
        raise ValueError(f"size={size!r} is not possible for {type(teacher).__name__}: {error}") from None
    return "pruned" if size == "auto" else size


def _pruned_fields(teacher: PreTrainedModel, neurons: float) -> dict[str, Any]:
    """The fields of a student whose layers are those of the teacher, with a share of the neurons."""
    config, layer = teacher.config, read_bert_layer(find_layers(teacher)[0])
    return {
        "use_bottleneck": False,
        "key_query_shared_bottleneck": False,
        "trigram_input": False,
        "num_feedforward_networks": 1,
        "num_attention_heads": config.num_attention_heads,
        "intra_bottleneck_size": config.hidden_size,
        "intermediate_size": round(layer.up.out_features * neurons),
        "normalization_type": "layer_norm",
        "layer_norm_eps": layer.output_norm.eps,
        "hidden_act": getattr(config, "hidden_act", None) or config.activation,  # the latter in DistilBERT
    }


def _bottleneck_fields(size: str) -> dict[str, Any]:
    return {**BOTTLENECKS[size], "normalization_type": "no_norm", "hidden_act": "relu"}


def choose_layers(count: int, kept: int | None = None) -> tuple[int, ...]:
    """Some of the layers: the first, the last two, and evenly spaced ones between them.

    Before training, the student's output is nearest to the teacher's so: the last layers change the most.

    Args:
        count: The number of the teacher's layers.
        kept: The number of the student's layers; by default half, and at least two. One is the last layer.
    """
    kept = max(min(count, 2), round(count / 2)) if kept is None else kept
    if kept == 1:
        return (count - 1,)
    left_out = count - kept
    gaps = {1 + round(index * max(count - 3, left_out) / left_out) for index in range(left_out)}
    return tuple(layer for layer in range(count) if layer not in gaps)


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
