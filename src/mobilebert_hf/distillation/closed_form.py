"""Fits the embeddings and the masked-LM head of a student to those of any BERT-like encoder, in closed form.

A BERT-like encoder adds word, position and type embeddings and normalizes the sum. So does a student with LayerNorm.
Without a norm, the *normalized* embeddings of the teacher are split into a part that depends on the token and a part
that depends on the position. The student's word embeddings are a narrow table times a matrix: the token part is
factorized by weighted principal components; the weights are the frequencies of the tokens in the corpus.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from .layer_fit import ridge, ridge_gram
from .networks import Needs
from .shapes import count_positions
from .teachers import EncoderTeacher

# Exponent of the token frequencies: rare tokens keep some weight.
SHARE_EXPONENT = 0.75
# The numbers of positions and tokens that the normalized sum is averaged over.
SAMPLED_POSITIONS = 6
SAMPLED_TOKENS = 1000
# Ridge strength of the regression of the logits.
HEAD_RIDGE = 1e-4
# The largest numbers of logits, and of tokens in float64, in memory at a time, and of features for the report.
CHUNK, TOKENS = 2**24, 2**16
EXPLAINED_FEATURES = 1000
# Most sequences are shorter.
USUAL_LENGTH = 48
# Rows that are read at a time.
READ_ROWS = 100

# From features [n, width] to logits [n, vocab_size].
Head = Callable[[Tensor], Tensor]


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
    split = copy_tables if has_norm else partial(split_embeddings, counts=counts)
    tokens, positions, types = split(
        teacher, num_positions=config.max_position_embeddings, num_types=config.type_vocab_size
    )
    if has_norm:
        own.LayerNorm.load_state_dict(cast(Any, teacher.base_model.embeddings).LayerNorm.state_dict())
    own.position_embeddings.weight.copy_(positions)
    own.token_type_embeddings.weight.copy_(types)
    if not own.project:
        own.word_embeddings.weight.copy_(tokens)
        return 1.0
    shares = (counts.double() + 1) ** SHARE_EXPONENT
    shares /= shares.sum()
    mean = shares.float() @ tokens
    centred = tokens - mean
    # Part by part: all tokens in float64 would take gigabytes.
    parts = zip(centred.split(TOKENS), shares.split(TOKENS), strict=True)
    covariance = sum((part.double() * share[:, None]).T @ part.double() for part, share in parts)
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


def copy_tables(teacher: PreTrainedModel, num_positions: int, num_types: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of a teacher that sums and normalizes them, as BERT does; see `split_embeddings`."""
    embeddings: Any = teacher.base_model.embeddings
    table = cast(nn.Embedding, teacher.get_input_embeddings()).weight
    positions = embeddings.position_embeddings.weight[-cast(int, count_positions(teacher)) :][:num_positions]
    own_types = getattr(embeddings, "token_type_embeddings", None)
    types = torch.zeros(num_types, table.shape[1])
    if own_types is not None:
        known = min(num_types, own_types.num_embeddings)
        types[:known] = own_types.weight[:known]
        types[known:] = own_types.weight[0]
    return table, positions, types


@torch.no_grad()
def split_embeddings(
    teacher: PreTrainedModel, counts: Tensor, num_positions: int, num_types: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized embeddings of a teacher as approximately the sum of three tables.

    Each table holds means: of a token over the positions, of a position and a type over the tokens of the corpus,
    minus the overall mean. Exact where the embeddings have neither positions nor types, as in ModernBERT. Types that
    the teacher does not have are zero.

    Args:
        teacher: An encoder.
        counts: [vocab_size].
        num_positions: At most as many as the teacher has.
        num_types: Any number.

    Returns:
        Tokens [vocab_size, width], positions [num_positions, width] and types [num_types, width], float32.
    """
    generator = torch.Generator().manual_seed(0)
    usual = torch.multinomial(counts.double() + 1e-3, SAMPLED_TOKENS, replacement=True, generator=generator)
    # Each position sees the same tokens.
    every = usual[(torch.arange(SAMPLED_TOKENS)[:, None] + torch.arange(num_positions)) % SAMPLED_TOKENS]
    positions = torch.stack([_read_embeddings(teacher, rows).sum(0) for rows in every.split(READ_ROWS)]).sum(0)
    positions = positions / SAMPLED_TOKENS
    window = min(USUAL_LENGTH, num_positions)
    positions -= positions[:window].mean(0)
    # Each token is read at several positions, in rows of other tokens.
    vocabulary = torch.arange(-(-len(counts) // window) * window).clamp(max=len(counts) - 1).view(-1, window)
    shifts = range(0, window, max(1, window // SAMPLED_POSITIONS))
    parts = []
    for rows in vocabulary.split(READ_ROWS):
        states = [_read_embeddings(teacher, rows.roll(shift, 1)).roll(-shift, 1) for shift in shifts]
        offsets = [positions[:window].roll(-shift, 0) for shift in shifts]
        parts.append((torch.stack(states) - torch.stack(offsets)[:, None]).mean(0).flatten(0, 1))
    tokens = torch.cat(parts)[: len(counts)]
    types = torch.zeros(num_types, tokens.shape[1])
    for kind in range(min(num_types, getattr(teacher.config, "type_vocab_size", 0) or 0)):
        types[kind] = _read_embeddings(teacher, usual[:, None], kind).mean((0, 1))
    return tokens, positions, types - types[0]


def _read_embeddings(teacher: PreTrainedModel, tokens: Tensor, kind: int = 0) -> Tensor:
    """The input of the first layer for tokens [rows, seq] of a type: float32 [rows, seq, width]."""
    reader, parts = EncoderTeacher(teacher), []
    for ids in tokens.split(READ_ROWS):
        types = torch.full_like(ids, kind)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}
        parts.append(reader(inputs, Needs(depth=0, features=(-1,))).features[-1].float())
    return torch.cat(parts)


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
        The share of the variance of the logits, centred over the vocabulary, that the fit explains on a part of
        `features`.
    """
    own, predictions = student.mobilebert.embeddings, student.cls.predictions
    features, head = features.float(), masked_lm_head(teacher)
    transform = _find_transform(teacher, student.config.hidden_size)
    if transform is not None:
        predictions.transform.dense.weight.copy_(transform.weight)
        if transform.bias is not None:
            predictions.transform.dense.bias.copy_(transform.bias)
    rank, table = student.config.embedding_size, own.word_embeddings.weight
    hidden = predictions.transform(features)
    tied, free = hidden[:, :rank], torch.cat([hidden[:, rank:], torch.ones(len(hidden), 1)], 1)
    tied_rest = tied - free @ ridge(free, tied, HEAD_RIDGE)
    free_gram = ridge_gram(free, HEAD_RIDGE)
    tied_table, free_table = _read_logits(predictions, head, features, tied_rest, free, table)
    of_free = tied_rest.T.double() @ free.double() @ torch.linalg.solve(free_gram.double(), free_table)
    tied_products = (tied_table - of_free).float()
    left, _, right = torch.linalg.svd(torch.linalg.solve(ridge_gram(tied_rest, HEAD_RIDGE), tied_products).T)
    turn = left @ right
    table.copy_(table @ turn)
    columns = _own_columns(student.mobilebert)
    columns.copy_(columns @ turn)
    scales = torch.linalg.lstsq(
        (tied_rest.T @ tied_rest) * (table.T @ table), (tied_products @ turn).diagonal()
    ).solution
    predictions.transform.LayerNorm.weight[:rank] = scales
    free_tied = free.T @ (tied * scales)
    for tokens in _chunks(len(table), len(free_gram)):
        free_logits = torch.cat([predictions.dense.weight[:, tokens], predictions.bias[None, tokens]])
        solution = torch.linalg.solve(free_gram, free_logits - free_tied @ table[tokens].T)
        predictions.dense.weight[:, tokens] = solution[:-1]
        predictions.bias[tokens] = solution[-1]
    return _explained(predictions, head, features[:: -(-len(features) // EXPLAINED_FEATURES)])


def _read_logits(
    predictions: Any, head: Head, features: Tensor, tied: Tensor, free: Tensor, table: Tensor
) -> list[Tensor]:
    """The products tied^T logits table and free^T logits table, float64, and in place of D and b free^T logits.

    All logits would take n * vocab_size numbers; a chunk of them at a time is enough for their products.
    """
    products = [torch.zeros(channels.shape[1], table.shape[1], dtype=torch.double) for channels in (tied, free)]
    predictions.dense.weight.zero_()
    predictions.bias.zero_()
    for rows in _chunks(len(features), len(table)):
        logits = head(features[rows]).float()
        logits_table = (logits @ table).double()
        for product, channels in zip(products, (tied, free), strict=True):
            product += channels[rows].T.double() @ logits_table
        predictions.dense.weight.addmm_(free[rows, :-1].T, logits)
        predictions.bias.add_(logits.sum(0))
    return products


def masked_lm_head(teacher: PreTrainedModel) -> Head:
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


def _chunks(count: int, width: int) -> list[slice]:
    """Slices of a dimension of a matrix [count, width], each with at most `CHUNK` numbers of it."""
    step = max(1, CHUNK // width)
    return [slice(start, start + step) for start in range(0, count, step)]


def _explained(student_head: Head, teacher_head: Head, features: Tensor) -> float:
    """The explained share of the variance of the logits on `features`, centered in each row."""
    error = squares = 0.0
    sums = torch.zeros(1)
    for rows in _chunks(len(features), teacher_head(features[:1]).shape[1]):
        fitted, target = (head(features[rows]).float() for head in (student_head, teacher_head))
        fitted, target = fitted - fitted.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
        error += float((fitted - target).square().sum())
        squares += float(target.square().sum())
        sums = sums + target.double().sum(0)
    return 1 - error / (squares - float(sums.square().sum()) / len(features))


def _find_transform(teacher: PreTrainedModel, width: int) -> nn.Linear | None:
    """The first dense layer of the head from features to features of the same width."""
    encoder = set(teacher.base_model.modules())
    heads = (module for module in teacher.modules() if isinstance(module, nn.Linear) and module not in encoder)
    return next((module for module in heads if module.in_features == module.out_features == width), None)
