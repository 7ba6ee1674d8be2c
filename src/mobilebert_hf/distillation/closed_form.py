"""Fits the embeddings and the masked-LM head of a student to those of any BERT-like encoder, in closed form.

A BERT-like encoder adds word, position and type embeddings and normalizes the sum. So does a student with LayerNorm.
Without a norm, the *normalized* embeddings of the teacher are split into a part that depends on the token and a part
that depends on the position. The student's word embeddings are a narrow table times a matrix: the token part is
factorized by weighted principal components; the weights are the frequencies of the tokens in the corpus.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from .layer_fit import ridge
from .shapes import position_offset

# Exponent of the token frequencies: rare tokens keep some weight.
SHARE_EXPONENT = 0.75
# The numbers of positions and tokens that the normalized sum is averaged over.
SAMPLED_POSITIONS = 6
SAMPLED_TOKENS = 1000
# Ridge strength of the regression of the logits.
HEAD_RIDGE = 1e-4
# Most sequences are shorter.
USUAL_LENGTH = 48


@torch.no_grad()
def initialize_embeddings(student: MobileBertModel, teacher: PreTrainedModel, counts: Tensor) -> float:
    """Fits the student's embeddings to the inputs of the teacher's first layer.

    Args:
        student: Changed in place.
        teacher: An encoder, with or without a head.
        counts: [vocab_size], how often each token occurs in the corpus, or in a sample.

    Returns:
        The share of the variance of the teacher's embeddings, weighted by `counts`, that the narrow table keeps.
    """
    own, config = student.embeddings, student.config
    has_norm = config.normalization_type == "layer_norm"
    tokens, positions, types = copy_tables(teacher) if has_norm else split_embeddings(teacher, counts)
    if has_norm:
        own.LayerNorm.load_state_dict(teacher.base_model.embeddings.LayerNorm.state_dict())
    own.position_embeddings.weight.copy_(positions)
    own.token_type_embeddings.weight.copy_(types)
    if not own.project:
        own.word_embeddings.weight.copy_(tokens)
        return 1.0
    shares = (counts.double() + 1) ** SHARE_EXPONENT
    shares /= shares.sum()
    mean = shares.float() @ tokens
    centred = tokens - mean
    covariance = (centred.double() * shares[:, None]).T @ centred.double()
    variances, directions = torch.linalg.eigh(covariance)
    rank = config.embedding_size
    basis = directions[:, -rank:].float()
    own.word_embeddings.weight.copy_(centred @ basis)
    if config.mask_padding and config.pad_token_id is not None:
        own.word_embeddings.weight[config.pad_token_id] = 0
    # Of the trigram (left, own, right) only the token itself counts at first.
    own.embedding_transformation.weight.zero_()
    _own_columns(student)[:] = basis
    own.embedding_transformation.bias.copy_(mean)
    return float(variances[-rank:].sum() / variances.sum())


def copy_tables(teacher: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of a teacher that sums and normalizes them, as BERT does.

    Returns:
        Tokens [vocab_size, width], positions [positions, width] and types [types, width], float32.
    """
    embeddings, table = teacher.base_model.embeddings, teacher.get_input_embeddings().weight
    positions = embeddings.position_embeddings.weight[position_offset(teacher) :]
    types = getattr(embeddings, "token_type_embeddings", None)
    return table, positions, torch.zeros(1, table.shape[1]) if types is None else types.weight


@torch.no_grad()
def split_embeddings(teacher: PreTrainedModel, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized embeddings of a teacher as approximately the sum of three tables.

    Each table holds means: of a token over the positions, of a position and a type over the tokens of the corpus,
    minus the overall mean. Exact where the embeddings have neither positions nor types, as in ModernBERT.

    Args:
        teacher: An encoder.
        counts: [vocab_size].

    Returns:
        Tokens [vocab_size, width], positions [positions, width] and types [types, width], float32.
    """
    config = teacher.config
    vocabulary = torch.arange(config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    usual = torch.multinomial(counts.double() + 1e-3, SAMPLED_TOKENS, replacement=True, generator=generator)
    offset, kinds = position_offset(teacher), max(1, getattr(config, "type_vocab_size", 0) or 0)
    length = config.max_position_embeddings - offset
    read = _embedding_reader(teacher)
    has_positions = getattr(teacher.base_model.embeddings, "position_embeddings", None) is not None
    if not has_positions:
        tokens = read(vocabulary, None, None)
        return tokens, torch.zeros(length, tokens.shape[1]), torch.zeros(kinds, tokens.shape[1])
    sampled = range(0, min(USUAL_LENGTH, length), max(1, min(USUAL_LENGTH, length) // SAMPLED_POSITIONS))
    tokens = torch.stack([read(vocabulary, offset + position, 0) for position in sampled]).mean(0)
    mean = tokens[usual].mean(0)
    positions = torch.stack([read(usual, offset + position, 0).mean(0) for position in range(length)]) - mean
    types = torch.stack([read(usual, offset + sampled[0], kind).mean(0) for kind in range(kinds)])
    return tokens, positions, types - types[0]


def _embedding_reader(teacher: PreTrainedModel) -> Any:
    """A function from token ids [n], a position and a type to the input of the first layer [n, width], in float32.

    Families differ in which of the tables, the norm and the projection they have.
    """
    base = teacher.base_model
    embeddings, table = base.embeddings, teacher.get_input_embeddings()
    positions = getattr(embeddings, "position_embeddings", None)
    types = getattr(embeddings, "token_type_embeddings", None)
    norm = getattr(embeddings, "LayerNorm", None) or getattr(embeddings, "norm", None) or nn.Identity()
    project = getattr(base, "embeddings_project", None) or nn.Identity()

    def read(tokens: Tensor, position: int | None, kind: int | None) -> Tensor:
        total = table(tokens)
        if positions is not None and position is not None:
            total = total + positions.weight[position]
        if types is not None and kind is not None:
            total = total + types.weight[kind]
        return project(norm(total)).float()

    return read


@torch.no_grad()
def initialize_masked_lm_head(student: MobileBertForMaskedLM, teacher: PreTrainedModel, features: Tensor) -> float:
    """Fits the student's masked-LM head to the teacher's logits on the teacher's features.

    The student's logits are v_1 T^t + v_2 D + b: v, split in two, is its transform of the features, T the narrow
    embedding table, D free. The dense layer of the transform is copied from the teacher if it has the same shape. D is
    the least-squares fit of the logits on v_2. For the rest T is rotated (and the embeddings' matrix rotated back, so
    that the embeddings stay the same), and the channels of v_1 are scaled.

    Args:
        student: Changed in place; its embeddings have to be initialized.
        teacher: A model with a masked-LM head.
        features: [n, width] of the teacher's last layer at predicted positions, n well above the width.

    Returns:
        The share of the variance of the logits, centred over the vocabulary, that the fit explains on `features`.
    """
    own, predictions = student.mobilebert.embeddings, student.cls.predictions
    features = features.float()
    logits = masked_lm_head(teacher)(features).float()
    transform = _find_transform(teacher, student.config.hidden_size)
    if transform is not None:
        predictions.transform.dense.weight.copy_(transform.weight)
        predictions.transform.dense.bias.copy_(transform.bias)
    rank = student.config.embedding_size
    hidden = predictions.transform(features)
    tied, free = hidden[:, :rank], torch.cat([hidden[:, rank:], torch.ones(len(hidden), 1)], 1)
    tied_rest, rest = tied - free @ ridge(free, tied, HEAD_RIDGE), logits - free @ ridge(free, logits, HEAD_RIDGE)
    table = own.word_embeddings.weight
    left, _, right = torch.linalg.svd((ridge(tied_rest, rest, HEAD_RIDGE) @ table).T)
    turn = left @ right
    table.copy_(table @ turn)
    columns = _own_columns(student.mobilebert)
    columns.copy_(columns @ turn)
    scales = torch.linalg.lstsq(
        (tied_rest.T @ tied_rest) * (table.T @ table), ((tied_rest.T @ rest) * table.T).sum(1)
    ).solution
    predictions.transform.LayerNorm.weight[:rank] = scales
    solution = ridge(free, logits - (tied * scales) @ table.T, HEAD_RIDGE)
    predictions.dense.weight.copy_(solution[:-1])
    predictions.bias.copy_(solution[-1])
    return _explained(predictions(features), logits)


def masked_lm_head(teacher: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The head of a masked-LM model alone, from features [n, width] to logits [n, vocab_size].

    The model runs on one short sequence, and the output of its encoder is replaced.
    """

    def head(features: Tensor) -> Tensor:
        def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = features[None]
            return output

        handle = teacher.base_model.register_forward_hook(replace)
        try:
            return teacher(input_ids=torch.zeros(1, 2, dtype=torch.long, device=features.device)).logits[0]
        finally:
            handle.remove()

    return head


def _own_columns(student: MobileBertModel) -> Tensor:
    """The columns [width, rank] of the trigram matrix for the token itself, between those for its neighbors."""
    rank, weight = student.config.embedding_size, student.embeddings.embedding_transformation.weight
    return weight[:, rank : 2 * rank] if student.config.trigram_input else weight


def _explained(fitted: Tensor, target: Tensor) -> float:
    """The explained share of the variance of logits [n, vocab_size], centered in each row."""
    fitted, target = fitted - fitted.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    return float(1 - (fitted - target).square().sum() / (target - target.mean(0)).square().sum())


def _find_transform(teacher: PreTrainedModel, width: int) -> nn.Linear | None:
    """The first dense layer of the head from features to features of the same width."""
    encoder = set(teacher.base_model.modules())
    heads = (module for module in teacher.modules() if isinstance(module, nn.Linear) and module not in encoder)
    return next((module for module in heads if module.in_features == module.out_features == width), None)
