"""Selects the tokens of a model: the rows of its embeddings and of all else that has one for each token."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def select_vocabulary(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """A copy of a model for a vocabulary of some of its tokens in any order, with the same outputs for them.

    Args:
        model: Any model of transformers whose configuration has a `vocab_size`. Its tied weights stay tied.
        ids: For each token of the new vocabulary its id in the model's.

    Raises:
        ValueError: The model has fewer tokens than `ids` needs, or weights that depend on `vocab_size` in another way
            than a row for each token.
    """
    size = model.config.get_text_config().vocab_size
    if max(ids) >= size:
        raise ValueError(f"the tokenizer's ids go up to {max(ids)}, but the model's vocab_size is {size}")
    dimensions = _vocabulary_dimensions(model, size)
    index = torch.tensor(ids, device=model.device)
    selected: dict[int, Tensor] = {}  # of tied weights one
    state = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in selected:
            rows = value.index_select(dimensions[name], index) if name in dimensions else value
            selected[id(value)] = rows.detach().contiguous()
        state[name] = selected[id(value)]
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = len(ids)
    _renumber(config, ids)
    new = type(model)(config)
    new.load_state_dict(state, assign=True)
    new.tie_weights()
    if model.can_generate() and model.generation_config is not None:
        new.generation_config = copy.deepcopy(model.generation_config)
        _renumber(new.generation_config, ids)
    return new.train(model.training)


def token_ids(config: Any) -> set[int]:
    """The ids of tokens that a configuration names, such as `pad_token_id`."""
    found = set[int]()
    for value in _id_fields(config).values():
        found.update(value if isinstance(value, list) else [value])
    return found


def _vocabulary_dimensions(model: PreTrainedModel, size: int) -> dict[str, int]:
    """The weights that have a row, or a column, for each token, by the dimension.

    They are those that differ from the weights of a model with one more token.
    """
    config = copy.deepcopy(model.config)
    config.get_text_config().vocab_size = size + 1
    with torch.device("meta"):
        larger = type(model)(config).state_dict()
    found = {}
    for name, value in model.state_dict().items():
        shapes = zip(value.shape, larger[name].shape, strict=True)
        differing = [(dimension, pair) for dimension, pair in enumerate(shapes) if pair[0] != pair[1]]
        if not differing:
            continue
        if [pair for _, pair in differing] != [(size, size + 1)]:
            raise ValueError(
                f"{name} of {type(model).__name__} has shape {tuple(value.shape)}: expected a row for each of the "
                f"{size} tokens of vocab_size"
            )
        found[name] = differing[0][0]
    if not found:
        raise ValueError(f"{type(model).__name__} has no weights for each of the {size} tokens of vocab_size")
    return found


def _id_fields(config: Any) -> dict[str, int | list[int]]:
    """The fields of a configuration that are ids of tokens."""
    fields = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return {name: value for name, value in fields.items() if value is not None}


def _renumber(config: Any, ids: Sequence[int]) -> None:
    """Maps the ids that a configuration names. One that no token has becomes None."""
    new = {former: index for index, former in enumerate(ids)}
    for name, value in _id_fields(config).items():
        setattr(config, name, [new[each] for each in value] if isinstance(value, list) else new.get(value))
