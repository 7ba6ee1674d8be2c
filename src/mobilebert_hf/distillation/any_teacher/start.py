"""A student before training: with as much of its teacher as can be had without."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from ...data.masking import IGNORED
from ...models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from ...pretraining.trainer import encoder_inputs
from ..teachers import EncoderTeacher, TeacherOutput
from .initialization import initialize_embeddings, initialize_masked_lm_head
from .layer_fit import can_be_fitted, fit_layers
from .shapes import Shape
from .trainer import Objective

# Examples whose tokens are counted, and tokens on which layers and head are solved for.
COUNTED_EXAMPLES = 20_000
FITTED_TOKENS = 40_000
BATCH_SIZE = 64

Batch = dict[str, Tensor]


class Start(NamedTuple):
    """A student, and what it kept of the teacher.

    Args:
        student: With random weights only where nothing could be solved for.
        report: `embedding_variance` and, with a masked-LM head, `logit_variance`, shares of 1; `layer_similarity`, for
            each layer the mean cosine on the text it was solved for.
    """

    student: PreTrainedModel
    report: dict[str, Any]


def start_student(
    shape: Shape,
    teacher: EncoderTeacher,
    objective: Objective,
    examples: Dataset,
    collate: Callable[[Sequence[dict[str, Any]]], Batch],
) -> Start:
    """Makes a student with the teacher's embeddings and head as nearly as can be, and layers solved for.

    Args:
        shape: Its shape.
        teacher: The teacher, on the CPU.
        objective: Says whether the student has a masked-LM head.
        examples: Of training; some are read.
        collate: Makes a batch of them.
    """
    model: Any
    if objective == "masked_lm":
        model = MobileBertForMaskedLM(shape.config)
    else:
        model = MobileBertModel(shape.config, add_pooling_layer=False)
    rows = list(examples.select(range(min(COUNTED_EXAMPLES, len(examples)))))
    ids = np.concatenate([np.asarray(row["input_ids"], np.int64) for row in rows])
    counts = torch.from_numpy(np.bincount(ids, minlength=shape.config.vocab_size))
    report: dict[str, Any] = {"embedding_variance": initialize_embeddings(model.base_model, teacher.model, counts)}
    batches = _take_batches(rows, collate)
    seen = _ask(teacher, batches, shape.mapping)
    if objective == "masked_lm":
        features = _predicted_features(seen, batches)
        report["logit_variance"] = initialize_masked_lm_head(model, teacher.model, features)
    if can_be_fitted(shape.config):
        with torch.no_grad():
            states = [model.base_model(**encoder_inputs(batch), stop_layer=0).last_hidden_state for batch in batches]
        targets = [[output.layer_outputs[index] for output in seen] for index in range(len(shape.mapping))]
        real = [batch["attention_mask"].bool() for batch in batches]
        report["layer_similarity"] = fit_layers(model.base_model, states, targets, real)
    return Start(model, report)


def _take_batches(rows: Sequence[dict[str, Any]], collate: Callable[[Sequence[dict[str, Any]]], Batch]) -> list[Batch]:
    """Batches with `FITTED_TOKENS` tokens together, or of all rows."""
    batches: list[Batch] = []
    tokens = 0
    for start in range(0, len(rows), BATCH_SIZE):
        if tokens >= FITTED_TOKENS:
            break
        batches.append(collate(rows[start : start + BATCH_SIZE]))
        tokens += int(batches[-1]["attention_mask"].sum())
    return batches


@torch.inference_mode()
def _ask(teacher: EncoderTeacher, batches: Sequence[Batch], mapping: Sequence[int]) -> list[TeacherOutput]:
    return [teacher(**encoder_inputs(batch), capture_layers=mapping) for batch in batches]


def _predicted_features(seen: Sequence[TeacherOutput], batches: Sequence[Batch]) -> Tensor:
    """The last layer's output at the predicted positions, [n, width]."""
    parts = []
    for output, batch in zip(seen, batches, strict=True):
        assert output.last_hidden_state is not None
        parts.append(output.last_hidden_state[batch["labels"] != IGNORED])
    return torch.cat(parts)
