"""What a student of any shape takes over from its teacher before any step of training.

A BERT-like encoder adds word, position and type embeddings and normalises the sum. The student adds them up as well,
but has no normalisation, and its words are rows of a narrow table times a matrix. So the *normalised* embeddings are
split into what depends on the word and what depends on the position, and the words' part is factorised by weighted
principal components: the weights are the words' shares of the corpus, because a direction that only unused words
need is of no use.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from .layer_fit import ridge
from .shapes import position_offset

# Of a corpus' shares: rare words keep some weight.
SHARE_EXPONENT = 0.75
# How many positions, and how many words, the normalised sum is averaged over.
SAMPLED_POSITIONS = 6
SAMPLED_WORDS = 1000
# Of the regression of the logits.
HEAD_RIDGE = 1e-4
# Most texts are shorter.
USUAL_LENGTH = 48


@torch.no_grad()
def initialize_embeddings(student: MobileBertModel, teacher: PreTrainedModel, counts: Tensor) -> float:
    """Fits the student's embeddings to what the teacher's first layer reads.

    Args:
        student: Changed in place.
        teacher: An encoder, with or without a head.
        counts: [vocab_size], how often each token occurs in the corpus, or in a sample.

    Returns:
        The share of the variance of the teacher's embeddings, weighted by `counts`, that the narrow table keeps.
    """
    shares = (counts.double() + 1) ** SHARE_EXPONENT
    shares /= shares.sum()
    words, positions, types = split_embeddings(teacher, counts)
    mean = shares.float() @ words
    centred = words - mean
    covariance = (centred.double() * shares[:, None]).T @ centred.double()
    variances, directions = torch.linalg.eigh(covariance)
    rank = student.config.embedding_size
    basis = directions[:, -rank:].float()
    own = student.embeddings
    own.word_embeddings.weight.copy_(centred @ basis)
    if student.config.mask_padding and student.config.pad_token_id is not None:
        own.word_embeddings.weight[student.config.pad_token_id] = 0
    # Of the trigram (left, own, right) the token itself alone counts, at first.
    own.embedding_transformation.weight.zero_()
    _own_columns(student)[:] = basis
    own.embedding_transformation.bias.copy_(mean)
    own.position_embeddings.weight.copy_(positions)
    own.token_type_embeddings.weight.copy_(types)
    return float(variances[-rank:].sum() / variances.sum())


@torch.no_grad()
def split_embeddings(teacher: PreTrainedModel, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised embeddings of a teacher as a sum of three tables, nearly.

    Each table holds means: a word's over the positions, a position's and a type's over the corpus' words less the
    mean of all. Exact where the encoder has neither positions nor types in its embeddings, as ModernBERT.

    Args:
        teacher: An encoder.
        counts: [vocab_size].

    Returns:
        Words [vocab_size, width], positions [positions, width] and types [types, width], float32.
    """
    config = teacher.config
    vocabulary = torch.arange(config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    usual = torch.multinomial(counts.double() + 1e-3, SAMPLED_WORDS, replacement=True, generator=generator)
    offset, kinds = position_offset(teacher), max(1, getattr(config, "type_vocab_size", 0) or 0)
    length = config.max_position_embeddings - offset
    read = _embedding_reader(teacher)
    has_positions = getattr(teacher.base_model.embeddings, "position_embeddings", None) is not None
    if not has_positions:
        words = read(vocabulary, None, None)
        return words, torch.zeros(length, words.shape[1]), torch.zeros(kinds, words.shape[1])
    sampled = range(0, min(USUAL_LENGTH, length), max(1, min(USUAL_LENGTH, length) // SAMPLED_POSITIONS))
    words = torch.stack([read(vocabulary, offset + position, 0) for position in sampled]).mean(0)
    mean = words[usual].mean(0)
    positions = torch.stack([read(usual, offset + position, 0).mean(0) for position in range(length)]) - mean
    types = torch.stack([read(usual, offset + sampled[0], kind).mean(0) for kind in range(kinds)])
    return words, positions, types - types[0]


def _embedding_reader(teacher: PreTrainedModel) -> Any:
    """A function from words [n], a position and a type to what the first layer reads [n, width], in float32.

    Of the tables, the norm and the projection a family has those that it has; all add them up in this way.
    """
    base = teacher.base_model
    embeddings, table = base.embeddings, teacher.get_input_embeddings()
    positions = getattr(embeddings, "position_embeddings", None)
    types = getattr(embeddings, "token_type_embeddings", None)
    norm = getattr(embeddings, "LayerNorm", None) or getattr(embeddings, "norm", None) or nn.Identity()
    project = getattr(base, "embeddings_project", None) or nn.Identity()

    def read(words: Tensor, position: int | None, kind: int | None) -> Tensor:
        total = table(words)
        if positions is not None and position is not None:
            total = total + positions.weight[position]
        if types is not None and kind is not None:
            total = total + types.weight[kind]
        return project(norm(total)).float()

    return read


@torch.no_grad()
def initialize_masked_lm_head(student: MobileBertForMaskedLM, teacher: PreTrainedModel, features: Tensor) -> float:
    """Fits the student's masked-LM head so that on the teacher's features it gives the teacher's logits.

    The student's logits are v_1 T^t + v_2 D + b: v, cut in two, is its transform of the features, T the narrow word
    table, D free. The transform's product is the teacher's where that has the same shape. By least squares D takes
    all that v_2 tells of the logits. For the rest T is turned (and the embeddings' product turned back, so they stay
    as they are), and the channels of v_1 are scaled.

    Args:
        student: Changed in place; its embeddings are initialized.
        teacher: With a masked-LM head.
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
    """The head of a masked-LM teacher alone, from features [n, width] to logits [n, vocab_size].

    The model runs on one short text, and what its encoder gives is replaced.
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
    """The part of the trigram's product [width, rank] that reads the token itself, between its neighbours'."""
    rank, weight = student.config.embedding_size, student.embeddings.embedding_transformation.weight
    return weight[:, rank : 2 * rank] if student.config.trigram_input else weight


def _explained(fitted: Tensor, target: Tensor) -> float:
    """1 - residual variance over variance, of logits [n, vocab_size] centred in each row."""
    fitted, target = fitted - fitted.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    return float(1 - (fitted - target).square().sum() / (target - target.mean(0)).square().sum())


def _find_transform(teacher: PreTrainedModel, width: int) -> nn.Linear | None:
    """The head's first product from features to something of the same width."""
    encoder = set(teacher.base_model.modules())
    heads = (module for module in teacher.modules() if isinstance(module, nn.Linear) and module not in encoder)
    return next((module for module in heads if module.in_features == module.out_features == width), None)
