"""Initializes the layers of a student as pruned copies of its teacher's layers.

A student without bottlenecks has the layers of BERT: h = LN(x + attention(x)), then LN(h + feed_forward(h)). The
weights come from a teacher with such layers. Attention is as wide as the teacher's. Of each feed-forward network those
neurons are kept whose contributions to the output vary most. All linear layers are then solved for by least squares,
bottom up, on the actual outputs of the student below: where layers of the teacher are left out, the next layer reads
other inputs than in the teacher, and its targets stay the same.

Sources: keeping some layers of a teacher: Sanh et al., "DistilBERT", 2019. Neuron pruning with reconstruction by least
squares: He et al., "Channel pruning for accelerating very deep neural networks", 2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.modeling_mobilebert import MobileBertModel
from ..training.compat import tqdm
from .layer_fit import ridge
from .networks import Needs, encoder_inputs
from .teachers import EncoderTeacher, find_layers

# Ridge strength, relative to the mean of the diagonal of the Gram matrix.
RIDGE = 1e-2
# The largest difference between a layer's output and that of its last norm.
SAME = 1e-6

Batch = Mapping[str, Tensor]


class BertLayer(NamedTuple):
    """The parts of a layer as in BERT: four linear layers of attention, two of the feed-forward network, two norms."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    up: nn.Linear
    down: nn.Linear
    attention_norm: nn.LayerNorm
    output_norm: nn.LayerNorm


def read_bert_layer(layer: nn.Module) -> BertLayer:
    """Finds the parts of a layer by their shapes; all families define them in the order of `BertLayer`.

    Raises:
        ValueError: The layer has other parts.
    """
    linears: list[Any] = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    norms: list[Any] = [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]
    shapes = [(linear.in_features, linear.out_features) for linear in linears]
    width, inner = shapes[-1][::-1] if shapes else (0, 0)
    if shapes != [(width, width)] * 4 + [(width, inner), (inner, width)] or len(norms) != 2:
        raise ValueError(
            f"{type(layer).__name__} has linear layers of shapes {shapes} and {len(norms)} LayerNorms; expected the "
            "six linear layers and the two norms of BERT."
        )
    return BertLayer(*linears, *norms)


def check_prunable(teacher: PreTrainedModel) -> None:
    """Checks that the layers and the embeddings of a teacher have the form of BERT's.

    Raises:
        ValueError: They do not; the message says why.
    """
    layers = find_layers(teacher)
    for layer in layers:
        read_bert_layer(layer)
    embeddings = getattr(teacher.base_model, "embeddings", None)
    if not isinstance(getattr(embeddings, "LayerNorm", None), nn.LayerNorm) or any(
        isinstance(module, nn.Linear) for module in teacher.base_model.children()
    ):
        raise ValueError("the embeddings are not a sum of tables with a LayerNorm, as in BERT.")
    inputs = torch.arange(6).remainder(teacher.config.vocab_size)[None]
    with torch.no_grad():
        with _captured(layers[0]) as captured:
            output = _run(teacher, inputs)
        last = read_bert_layer(layers[0]).output_norm(captured["output_norm"])
    if (last - output).abs().max() > SAME * output.abs().max():
        raise ValueError("the layers do not end with a LayerNorm of their sum: they are not those of BERT.")
    relative = [
        name for name, _ in teacher.named_parameters() if "relative" in name or "rel_" in name or "distance" in name
    ]
    if relative:
        raise ValueError(f"attention has relative positions ({relative[0]}), which the student has not.")


@torch.no_grad()
def prune_layers(student: MobileBertModel, teacher: EncoderTeacher, batches: Sequence[Batch]) -> list[float]:
    """Initializes the layers of a student without bottlenecks.

    Args:
        student: Changed in place; `normalization_type="layer_norm"`, and the teacher's width. Its embeddings have to
            be initialized.
        teacher: An encoder for which `check_prunable` passes, with its mapping.
        batches: Batches with 10,000 tokens or more together.

    Returns:
        For each layer the mean cosine of its output and the teacher's, on these batches.
    """
    real = torch.cat([batch["attention_mask"].flatten() for batch in batches]).bool()
    states = [student(**encoder_inputs(batch), stop_layer=0).last_hidden_state for batch in batches]
    cosines: list[float] = []
    layers: Any = zip(student.encoder.layer, teacher.mapping, strict=True)
    for depth, (layer, index) in enumerate(tqdm(layers, "pruning layers", total=len(teacher.mapping), leave=False), 1):
        source = find_layers(teacher.model)[index]
        parts: dict[str, list[Tensor]] = {}
        for batch in batches:
            with _captured(source) as captured:
                captured["features"] = teacher(batch, Needs(depth=depth, features=(depth - 1,))).features[depth - 1]
            for name, value in captured.items():
                parts.setdefault(name, []).append(value.flatten(0, 1))
        targets = {name: torch.cat(values)[real] for name, values in parts.items()}
        _prune_layer(layer, read_bert_layer(source), states, batches, real, targets)
        states = [layer(state, _mask(batch))[0] for state, batch in zip(states, batches, strict=True)]
        output = torch.cat([state.flatten(0, 1) for state in states])[real]
        cosines.append(float(nn.functional.cosine_similarity(output, targets["features"], dim=-1).mean()))
    return cosines


def _prune_layer(
    layer: Any,
    source: BertLayer,
    states: Sequence[Tensor],
    batches: Sequence[Batch],
    real: Tensor,
    targets: Mapping[str, Tensor],
) -> None:
    """Initializes a layer for its inputs `states`; targets [tokens, width] are what `_captured` reads."""
    attention = layer.attention.self
    inputs = torch.cat([state.flatten(0, 1) for state in states])[real]
    for linear, name in ((attention.query, "query"), (attention.key, "key"), (attention.value, "value")):
        _solve(linear, inputs, targets[name])
    contexts = [attention(state, state, _mask(batch)) for state, batch in zip(states, batches, strict=True)]
    context = torch.cat([each.flatten(0, 1) for each in contexts])[real]
    hidden = _solve_residual(layer.attention.output, source.attention_norm, context, inputs, targets["attention_norm"])
    kept = _choose_neurons(layer.intermediate, source.down, targets["up"])
    _solve(layer.intermediate.dense, hidden, targets["up"][:, kept])
    _solve_residual(layer.output, source.output_norm, layer.intermediate(hidden), hidden, targets["output_norm"])


def _solve_residual(block: Any, norm: nn.LayerNorm, features: Tensor, residual: Tensor, target: Tensor) -> Tensor:
    """Copies the norm and solves norm(W features + b + residual) for W and b; returns it. `target` is its input."""
    _solve(block.dense, features, target - residual)
    block.LayerNorm.load_state_dict(norm.state_dict())
    return block.LayerNorm(block.dense(features) + residual)


def _choose_neurons(intermediate: Any, down: nn.Linear, before: Tensor) -> Tensor:
    """The indices of the neurons with the largest variance of their contributions, ascending."""
    energy = intermediate.activation(before).var(0) * down.weight.square().sum(0)
    return energy.topk(min(intermediate.dense.out_features, len(energy))).indices.sort().values


def _solve(linear: nn.Linear, inputs: Tensor, outputs: Tensor) -> None:
    """Ridge regression of outputs [n, b] on inputs [n, a], with a bias. Rows beyond b are zero."""
    center, outputs_center = inputs.mean(0), outputs.mean(0)
    weight = ridge(inputs - center, outputs - outputs_center, RIDGE).T
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[: len(weight)] = weight
    linear.bias[: len(weight)] = outputs_center - weight @ center


def _mask(batch: Batch) -> Tensor:
    """Boolean [batch, 1, 1, seq], True where attention may look."""
    return batch["attention_mask"][:, None, None, :].bool()


def _run(teacher: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """The output of the first layer, [batch, seq, width]."""
    adapter = EncoderTeacher(teacher)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids),
              "token_type_ids": torch.zeros_like(input_ids)}  # fmt: skip
    return adapter(inputs, Needs(depth=1, features=(0,))).features[0]


@contextmanager
def _captured(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context, the outputs of query, key, value and up, and the inputs of both norms, by name."""
    parts, captured = read_bert_layer(layer), {}

    def reader(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            captured[name] = inputs[0] if name.endswith("norm") else output

        return hook

    names = ("query", "key", "value", "up", "attention_norm", "output_norm")
    handles = [getattr(parts, name).register_forward_hook(reader(name)) for name in names]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
