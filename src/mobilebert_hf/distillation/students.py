"""Students before training: their configuration and their initialization, as the teacher and the objective require.

A student of an IB-BERT copies the teacher's embeddings and heads. A student of any other encoder is solved for by
least squares on examples of the corpus (see `closed_form.py` and `layer_fit.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForPreTraining, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data import PretrainingDataArguments
from ..data.masking import IGNORED
from ..data.vocabulary import check_special_tokens, count_token_types
from ..models.configuration import MobileBertConfig
from ..models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from .arguments import OutputName, StudentArguments
from .closed_form import initialize_embeddings, initialize_masked_lm_head
from .initialization import MATCHED_FIELDS, initialize_from_teacher
from .layer_fit import can_be_fitted, fit_layers
from .layer_pruning import prune_layers
from .networks import Needs, encoder_inputs
from .pretrain import ModelArguments
from .sentence_encoder import SentenceModules
from .shapes import count_positions, position_table, student_shape
from .teacher_check import check_teacher
from .teacher_files import LoadedTeacher, load_teacher
from .teachers import EncoderTeacher, IBBertTeacher, Teacher

# Random examples whose tokens are counted, and tokens of the first of them, on which layers and head are fitted.
COUNTED_EXAMPLES = 20_000
FITTED_TOKENS = 40_000
BATCH_SIZE = 64
# Of an IB-BERT teacher's configuration, besides what must match.
COPIED_FIELDS = ("pad_token_id", "mask_padding")

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[dict[str, Any]]], Batch]


class Initialized(NamedTuple):
    """A student before training.

    Args:
        model: Its weights are random only where nothing could be copied or solved for.
        report: With a fit `embedding_variance` and, with a masked-LM head, `logit_variance`, shares of 1; and
            `layer_similarity`, the mean cosine similarity of each layer on the text it was fitted on.
    """

    model: PreTrainedModel
    report: dict[str, Any]


@dataclass
class StudentPlan:
    """A teacher, and the student to make of it.

    Args:
        teacher: The adapter of the teacher, on the CPU in float32.
        config: The student's configuration.
        output: What the student learns besides the features of the layers.
        tokenizer: Of both.
        sentence: What surrounds the networks of sentence encoders.
        notes: What the user is told of the teacher.
    """

    teacher: Teacher
    config: MobileBertConfig
    output: OutputName
    tokenizer: PreTrainedTokenizerBase
    sentence: SentenceModules | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_fitted(self) -> bool:
        """Whether the student is initialized by a fit on examples."""
        return isinstance(self.teacher, EncoderTeacher)

    @property
    def is_pruned(self) -> bool:
        """Whether the student has layers of the teacher, not bottlenecks."""
        return self.is_fitted and not self.config.use_bottleneck

    @property
    def learns_masked_lm(self) -> bool:
        """Whether tokens of the examples are masked."""
        return self.output in ("pretraining", "masked_lm")

    def initialize(self, seed: int, examples: Any, collate: Collate) -> Initialized:
        """Makes the student; `examples` are those of training, read only for a fit."""
        set_seed(seed)
        if isinstance(self.teacher, EncoderTeacher):
            return fit_student(self.config, self.teacher, self.output, examples, collate)
        model = AutoModelForPreTraining.from_config(self.config)
        initialize_from_teacher(model, cast(Any, self.teacher.model))
        return Initialized(model, {})


def plan_student(student: StudentArguments, data: PretrainingDataArguments) -> StudentPlan:
    """Loads the teacher and plans the student, before any text is read.

    Args:
        student: The teacher, and the student to make of it.
        data: The training texts. If `max_seq_length` is left at its default and the teacher reads less, it is lowered.

    Raises:
        ValueError: The teacher cannot be used, or the arguments do not match it.
    """
    loaded = load_teacher(student)
    loaded.tokenizer.padding_side = "right"  # the student's positions count from the left
    if loaded.output == "pretraining":
        fields = {name: getattr(loaded.network.config, name) for name in (*MATCHED_FIELDS, *COPIED_FIELDS)}
        config = ModelArguments(student.preset, student.config_overrides).build_config(**fields)
        return StudentPlan(IBBertTeacher(loaded.network), config, loaded.output, loaded.tokenizer)
    network, tokenizer = loaded.network, loaded.tokenizer
    check_special_tokens(tokenizer, masks=loaded.output == "masked_lm")
    shape = student_shape(
        network,
        student.size,
        student.layers,
        student.overrides,
        max_position_embeddings=_plan_positions(student, data, loaded),
        type_vocab_size=count_token_types(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    teacher = EncoderTeacher(network, shape.mapping)
    check_teacher(teacher, tokenizer)
    positions, readable = shape.config.max_position_embeddings, tokenizer.model_max_length
    if count_positions(network) is not None:
        readable = min(readable, cast(int, count_positions(network)))
    tokenizer.model_max_length = min(readable, positions)
    notes = loaded.notes
    if student.size == "auto" and shape.config.use_bottleneck:
        notes += (f"{student.teacher} does not have the layers of BERT, so its student has bottlenecks (size=small).",)
    if readable > positions:
        notes += (f"{student.teacher} reads {readable:,} tokens, its student the {positions} that it is trained on.",)
    return StudentPlan(teacher, shape.config, loaded.output, tokenizer, loaded.sentence, notes)


def _plan_positions(student: StudentArguments, data: PretrainingDataArguments, loaded: LoadedTeacher) -> int:
    """The number of the student's positions: those that are trained, or more that are copied from a table."""
    trained = max(data.max_seq_length, data.long_seq_length or 0)
    limit = count_positions(loaded.network)
    if loaded.sentence is not None:
        limit = min(loaded.sentence.tokenizer.model_max_length, limit or trained)
    if limit is not None and limit < trained == PretrainingDataArguments.max_seq_length:
        data.max_seq_length = trained = limit  # not given, so it follows from the teacher
    if limit is not None and max(trained, student.max_length or 0) > limit:
        name = "max_length" if (student.max_length or 0) > limit else "max_seq_length (or long_seq_length)"
        raise ValueError(
            f"{student.teacher} reads at most {limit} tokens, but the student is to read "
            f"{max(trained, student.max_length or 0)}: set {name} to at most {limit}."
        )
    if student.max_length is None:
        return trained
    if student.max_length < trained:
        raise ValueError(
            f"max_length={student.max_length} is shorter than the longest training examples, {trained} tokens: "
            "shorten max_seq_length too."
        )
    if student.max_length > trained and position_table(loaded.network) is None:
        raise ValueError(
            f"max_length={student.max_length}: {student.teacher} has no table of positions to copy from, so only the "
            f"{trained} of the training examples can be learned: raise max_seq_length or long_seq_length."
        )
    return student.max_length


def fit_student(
    config: MobileBertConfig, teacher: EncoderTeacher, output: OutputName, examples: Dataset, collate: Collate
) -> Initialized:
    """Makes a student with approximations of the teacher's embeddings and head, and layers fitted to the teacher's.

    Args:
        config: The student's configuration.
        teacher: The teacher, on the CPU.
        output: Says whether the student has a masked-LM head.
        examples: The training data, of which a part is read.
        collate: Makes a batch of examples.
    """
    model: Any
    if output == "masked_lm":
        model = MobileBertForMaskedLM(config)
    else:
        model = MobileBertModel(config, add_pooling_layer=False)
    rows = list(examples.select(np.random.default_rng(0).permutation(len(examples))[:COUNTED_EXAMPLES]))
    ids = np.concatenate([np.asarray(row["input_ids"], np.int64) for row in rows])
    counts = torch.from_numpy(np.bincount(ids, minlength=config.vocab_size))
    report: dict[str, Any] = {"embedding_variance": initialize_embeddings(model.base_model, teacher.model, counts)}
    batches = _take_batches(rows, collate)
    if output == "masked_lm":
        features = _masked_features(teacher, batches)
        report["logit_variance"] = initialize_masked_lm_head(model, teacher.model, features)
    if not config.use_bottleneck:
        report["layer_similarity"] = prune_layers(model.base_model, teacher, batches)
    elif can_be_fitted(config):
        report["layer_similarity"] = _fit_bottlenecks(model.base_model, teacher, batches)
    return Initialized(model, report)


@torch.no_grad()
def _fit_bottlenecks(student: MobileBertModel, teacher: EncoderTeacher, batches: Sequence[Batch]) -> list[float]:
    layers = tuple(range(len(teacher.mapping)))
    outputs = [teacher(batch, Needs(features=layers)) for batch in batches]
    states = [student(**encoder_inputs(batch), stop_layer=0).last_hidden_state for batch in batches]
    targets = [[output.features[layer] for output in outputs] for layer in layers]
    return fit_layers(student, states, targets, [batch["attention_mask"].bool() for batch in batches])


def _take_batches(rows: Sequence[dict[str, Any]], collate: Collate) -> list[Batch]:
    """Batches with `FITTED_TOKENS` tokens together, or of all examples."""
    batches: list[Batch] = []
    tokens = 0
    for start in range(0, len(rows), BATCH_SIZE):
        if tokens >= FITTED_TOKENS:
            break
        batches.append(collate(rows[start : start + BATCH_SIZE]))
        tokens += int(batches[-1]["attention_mask"].sum())
    return batches


@torch.no_grad()
def _masked_features(teacher: EncoderTeacher, batches: Sequence[Batch]) -> Tensor:
    """The output of the teacher's last layer at the masked positions, [n, width]."""
    parts = []
    for batch in batches:
        output = teacher(batch, Needs(last_hidden_state=True)).last_hidden_state
        assert output is not None
        parts.append(output[batch["labels"] != IGNORED])
    return torch.cat(parts)
