"""Students with the head of a fine-tuned teacher, initialized in closed form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.vocabulary import count_token_types
from ..distillation.layer_fit import ridge
from ..distillation.loading import load_network
from ..distillation.networks import encoder_inputs
from ..distillation.shapes import Shape, student_shape
from ..distillation.students import FITTED_TOKENS, fit_student
from ..distillation.teachers import EncoderTeacher
from ..tasks.heads import Task
from .encoder import EncoderArguments, load_encoder
from .task_trainer import with_token_types

BATCH_SIZE = 64
# Fields of the configuration that belong to the head.
HEAD_FIELDS = ("id2label", "label2id", "problem_type", "tuned_thresholds")
# The columns that hold labels.
LABELS = ("labels", "start_positions", "end_positions")
# Ridge strength of the correction of the head's weights.
HEAD_RIDGE = 1e-2

Batch = Mapping[str, Tensor]


def load_teacher(student: Any, head: Task) -> PreTrainedModel:
    """The teacher of `TaskStudentArguments` with its head, in float32.

    Raises:
        ValueError: The files have no weights for the head, or need consent that was not given.
    """
    loaded = load_network(getattr(transformers, head.auto_class), student.teacher, student.consent)
    if loaded.missing:
        raise ValueError(
            f"{student.teacher} has no weights for {', '.join(loaded.missing)}. Fine-tune it, then distill it."
        )
    return loaded.network


def unlabelled(rows: Dataset) -> Dataset:
    """The rows without their labels."""
    return rows.remove_columns([name for name in LABELS if name in rows.column_names])


def shape_of(student: Any, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Shape:
    """The shape of a student; for one to start from, the mapping of its layers.

    Args:
        student: `TaskStudentArguments`.
        teacher: The teacher with its head.
        tokenizer: Its tokenizer.
    """
    size = student.size
    if student.student is not None and size == "auto" and AutoConfig.from_pretrained(student.student).use_bottleneck:
        size = "small"
    inputs = {"type_vocab_size": count_token_types(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return student_shape(teacher, size, student.layers, student.overrides, **inputs)


def build_student(
    teacher: PreTrainedModel,
    shape: Shape,
    start: str | None,
    head: Task,
    collator: Callable[[list[dict[str, Any]]], Any],
    rows: Dataset,
) -> tuple[PreTrainedModel, float]:
    """The student with its head, and the share of the variance of the teacher's logits that the head explains.

    Args:
        teacher: The teacher with its head.
        shape: The shape of the student.
        start: Folder or Hub id of a student; None: it is fitted on the texts of the task.
        head: The head.
        collator: Makes batches.
        rows: The tokenized texts.

    Raises:
        ValueError: The student to start from has another shape than the teacher.
    """

    def collate(part: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return with_token_types(dict(collator([dict(row) for row in part])))

    texts, auto_class, fields = unlabelled(rows), getattr(transformers, head.auto_class), head_fields(teacher)
    teacher.cpu()  # where the student is solved for; it may have predicted elsewhere
    adapter = EncoderTeacher(teacher, shape.mapping)
    if start is not None:
        model = load_encoder(EncoderArguments(start), auto_class, **fields)
        adapter.check_student(model.config)
    else:
        fitted = fit_student(shape.config, adapter, "features", texts, collate)
        for name, value in fields.items():
            setattr(shape.config, name, value)
        model = auto_class.from_config(shape.config)
        model.base_model.load_state_dict(fitted.model.state_dict(), strict=False)
    batches: list[dict[str, Tensor]] = []
    for begin in range(0, len(texts), BATCH_SIZE):
        batches.append(collate(list(texts.select(range(begin, min(begin + BATCH_SIZE, len(texts)))))))
        if sum(int(batch["attention_mask"].sum()) for batch in batches) > FITTED_TOKENS:
            break
    return model, initialize_head(model, teacher, batches)


def head_fields(teacher: Any) -> dict[str, Any]:
    """The fields of the configuration of the teacher that belong to its head, and whether it has a pooler."""
    fields = {name: value for name in HEAD_FIELDS if (value := getattr(teacher.config, name, None)) is not None}
    return {**fields, "classifier_activation": _pooler(teacher) is not None}


def _pooler(teacher: Any) -> nn.Linear | None:
    """The dense layer with tanh before the classifier: BERT's pooler, or the first layer of RoBERTa's head."""
    if not type(teacher).__name__.endswith("ForSequenceClassification"):
        return None
    pooler = getattr(teacher.base_model, "pooler", None)
    found = getattr(pooler, "dense", None)
    classifier = getattr(teacher, "classifier", None)
    if found is None and hasattr(classifier, "out_proj") and not hasattr(classifier, "activation"):
        found = getattr(classifier, "dense", None)  # with tanh; ELECTRA's has another activation
    width = teacher.config.hidden_size
    return found if isinstance(found, nn.Linear) and found.weight.shape == (width, width) else None


def _last_layer(model: nn.Module, outputs: int, width: int) -> nn.Linear | None:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return next((layer for layer in reversed(layers) if layer.weight.shape == (outputs, width)), None)


@torch.no_grad()
def initialize_head(student: Any, teacher: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Copies the teacher's head, and corrects its last layer by ridge regression on the student's own features.

    The correction is the least change of the weights after which the logits are the teacher's: a few texts do no harm.

    Args:
        student: A MobileBERT with the head of the task; changed in place.
        teacher: The model with the head.
        batches: Tokenized texts.

    Returns:
        The share of the variance of the teacher's logits that the student's head explains on these texts.
    """
    pooler = _pooler(teacher)
    if pooler is not None:
        student.base_model.pooler.dense.load_state_dict(pooler.state_dict())
    last = _last_layer(student, student.config.num_labels, student.config.hidden_size)
    assert last is not None
    source = _last_layer(teacher, student.config.num_labels, student.config.hidden_size)
    last.weight.zero_() if source is None else last.weight.copy_(source.weight)
    last.bias.zero_() if source is None or source.bias is None else last.bias.copy_(source.bias)
    features, found, wanted = [], [], []
    handle = last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    student.eval()
    for batch in batches:
        real = batch["attention_mask"].bool()
        answers, targets = (model(**_accepted(model, batch)) for model in (student, teacher))
        found.append(_rows(answers, real))
        wanted.append(_rows(targets, real))
        features[-1] = features[-1][real] if features[-1].ndim == 3 else features[-1]
    handle.remove()
    inputs, target = torch.cat(features), torch.cat(wanted)
    residual = target - torch.cat(found)
    centred = inputs - inputs.mean(0)
    change = ridge(centred, residual - residual.mean(0), HEAD_RIDGE)
    last.weight.add_(change.T)
    last.bias.add_(residual.mean(0) - inputs.mean(0) @ change)
    left = residual - residual.mean(0) - centred @ change
    return float(1 - left.square().sum() / (target - target.mean(0)).square().sum().clamp(min=1e-9))


def _accepted(model: Any, batch: Batch) -> dict[str, Tensor]:
    inputs = encoder_inputs(batch)
    if getattr(model.config, "type_vocab_size", 0) or hasattr(model, "mobilebert"):
        return inputs
    return {name: value for name, value in inputs.items() if name != "token_type_ids"}


def _rows(output: Any, real: Tensor) -> Tensor:
    """Logits of texts [batch, outputs], or of all real tokens [n, outputs]."""
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], -1)[real]
    logits = output["logits"]
    return logits[real] if logits.ndim == 3 else logits
