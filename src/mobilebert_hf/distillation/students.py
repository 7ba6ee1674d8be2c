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
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    PreTrainedModel,
    set_seed,
)

from ..data.masking import IGNORED
from ..models.configuration import IBBertConfig, MobileBertConfig
from ..models.modeling_mobilebert import MobileBertForMaskedLM, MobileBertModel
from ..recipe import parse_mapping
from ..training.compat import find_file
from .arguments import OutputName, StudentArguments
from .closed_form import initialize_embeddings, initialize_masked_lm_head
from .initialization import MATCHED_FIELDS, initialize_from_teacher
from .layer_fit import can_be_fitted, fit_layers
from .layer_pruning import prune_layers
from .networks import Needs, encoder_inputs
from .pretrain import ModelArguments
from .sentence_encoder import MODULES
from .shapes import student_shape
from .teachers import EncoderTeacher, IBBertTeacher, Teacher

# Random examples whose tokens are counted, and tokens of the first of them, on which layers and head are fitted.
COUNTED_EXAMPLES = 20_000
FITTED_TOKENS = 40_000
BATCH_SIZE = 64

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
    """

    teacher: Teacher
    config: MobileBertConfig
    output: OutputName

    @property
    def is_fitted(self) -> bool:
        """Whether the student is initialized by a fit on examples."""
        return isinstance(self.teacher, EncoderTeacher)

    def initialize(self, seed: int, examples: Any, collate: Collate) -> Initialized:
        """Makes the student; `examples` are those of training, read only for a fit."""
        set_seed(seed)
        if isinstance(self.teacher, EncoderTeacher):
            return fit_student(self.config, self.teacher, self.output, examples, collate)
        model = AutoModelForPreTraining.from_config(self.config)
        initialize_from_teacher(model, cast(Any, self.teacher.model))
        return Initialized(model, {})


def plan_student(student: StudentArguments) -> StudentPlan:
    """Loads the teacher and plans the student.

    Raises:
        ValueError: The teacher cannot be used, or the arguments do not match it.
    """
    output = choose_output(student)
    if output == "pretraining":
        ib_bert = AutoModelForPreTraining.from_pretrained(student.teacher)
        matched = {name: getattr(ib_bert.config, name) for name in (*MATCHED_FIELDS, "pad_token_id", "mask_padding")}
        config = ModelArguments(student.preset, student.config_overrides).build_config(**matched)
        return StudentPlan(IBBertTeacher(ib_bert), config, output)
    network = load_encoder(student.teacher, output)
    overrides = parse_mapping("config_overrides", student.config_overrides)
    shape = student_shape(network, student.size, student.layers, overrides)
    return StudentPlan(EncoderTeacher(network, shape.mapping), shape.config, output)


def choose_output(student: StudentArguments) -> OutputName:
    """The objective of the arguments; for `"auto"` that which the files of the teacher show.

    Raises:
        ValueError: `"pretraining"` is asked for with a teacher that is no IB-BERT.
    """
    config = AutoConfig.from_pretrained(student.teacher)
    architectures = config.architectures or []
    has_heads = any(name.endswith("ForPreTraining") for name in architectures)
    if student.objective != "auto":
        if student.objective == "pretraining" and not (has_heads and isinstance(config, MobileBertConfig)):
            raise ValueError(
                f"objective='pretraining' needs an IB-BERT teacher with its pre-training heads, but "
                f"{student.teacher} is a {config.model_type}: leave it out, or choose masked_lm, pooled or features."
            )
        return cast(OutputName, student.objective)
    if has_heads and isinstance(config, IBBertConfig):
        return "pretraining"
    if find_file(student.teacher, MODULES):
        return "pooled"
    has_masked_lm_head = has_heads or any(name.endswith("ForMaskedLM") for name in architectures)
    return "masked_lm" if has_masked_lm_head else "features"


def load_encoder(name: str, output: OutputName) -> PreTrainedModel:
    """An encoder, from safetensors only, in float32; with its masked-LM head if that is learned."""
    auto = AutoModelForMaskedLM if output == "masked_lm" else AutoModel
    return auto.from_pretrained(name, dtype=torch.float32, use_safetensors=True)


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
