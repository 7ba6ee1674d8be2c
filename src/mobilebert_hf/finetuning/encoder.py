"""An encoder with a head for a task, trained in full or with a PEFT adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from ..models import fold
from ..recipe import parse_mapping


@dataclass
class EncoderArguments:
    """Model and adapter.

    Raises:
        ValueError: `adapter` is given together with `quantization_aware` or `random_weights`.
    """

    model: str = field(
        metadata={
            "help": "Hub id or folder of an encoder that the Auto classes load. A head for the same task with the "
            "same labels in the same order is kept; otherwise the head is new."
        }
    )
    random_weights: bool = field(
        default=False,
        metadata={"help": "Start from random weights instead of the model's, as a baseline for pre-training."},
    )
    pooler: bool = field(
        default=True,
        metadata={"help": "Classify the output of the pooler, if there is one, instead of that of [CLS]."},
    )
    adapter: str | None = field(
        default=None,
        metadata={
            "help": "Train only the head and a PEFT adapter of this type: lora, ia3, adalora, loha, vera, ... The "
            "adapter is merged after training, and also saved in adapter/."
        },
    )
    adapter_options: str | None = field(
        default=None,
        metadata={"help": "Fields of the adapter's configuration: JSON on the command line, a mapping in YAML."},
    )
    quantization_aware: bool = field(
        default=False,
        metadata={
            "help": "Fold the student and train it with fake-quantized int8 weights and activations, whose ranges are "
            "learned, for `mobilebert-hf export --quantize int8-static`. Start from a student trained on the task."
        },
    )

    def __post_init__(self) -> None:
        if self.quantization_aware and self.adapter is not None:
            raise ValueError(
                f"quantization_aware trains the whole student, not with adapter={self.adapter!r}: train the adapter "
                "first, then the merged model with quantization_aware."
            )
        if self.random_weights and self.adapter is not None:
            raise ValueError(
                f"adapter={self.adapter!r} belongs to the weights of a model, but random_weights has none: leave one "
                "of the two out."
            )


def load_encoder(arguments: EncoderArguments, auto_class: Any, **fields: Any) -> PreTrainedModel:
    """The encoder with the head of `auto_class`; folded for quantization-aware training.

    Args:
        arguments: Which encoder to load, and how.
        auto_class: For example `AutoModelForSequenceClassification`.
        fields: Fields of the configuration, such as `id2label`.

    Raises:
        ValueError: `pooler` is False and the configuration has no field for it; the class with the head has a
            different encoder inside; or the model cannot be folded.
    """
    model = _load_encoder(arguments, auto_class, **fields)
    return fold(model, quantization_aware=True) if arguments.quantization_aware else model


def _load_encoder(arguments: EncoderArguments, auto_class: Any, **fields: Any) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(arguments.model)
    before = config.to_dict()
    for name, value in fields.items():
        setattr(config, name, value)
    if not arguments.pooler:
        if not hasattr(config, "classifier_activation"):
            raise ValueError(
                f"pooler=False: {arguments.model} ({config.model_type}) has no field classifier_activation, which "
                "would turn its pooler off: leave `pooler` at True."
            )
        config.classifier_activation = False
    head_class = auto_class._model_mapping[type(config)]
    same_labels = all(before.get(name) == config.to_dict()[name] for name in ("id2label", "problem_type"))
    if arguments.random_weights:
        return auto_class.from_config(config)
    if head_class.__name__ in (config.architectures or []) and same_labels:
        return auto_class.from_pretrained(arguments.model, config=config, dtype=torch.float32)
    model = auto_class.from_config(config)
    with _quiet():  # no warning that the weights of the pre-training heads are unused
        encoder, loading = AutoModel.from_pretrained(
            arguments.model, config=config, dtype=torch.float32, output_loading_info=True
        )
    found = model.base_model.load_state_dict(encoder.state_dict(), strict=False)
    # One of the two may have a pooler that the other does not use.
    if wrong := [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith("pooler")]:
        raise ValueError(
            f"{arguments.model}: {type(model).__name__} has another encoder inside than {type(encoder).__name__}; "
            f"they differ in {', '.join(wrong[:3])}."
        )
    # A pooler that the checkpoint did not have is new, as the head is.
    missing = (*found.missing_keys, *loading["missing_keys"])
    model.new_modules = ["pooler"] if any("pooler" in name.split(".") for name in missing) else []
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def add_adapter(model: nn.Module, arguments: EncoderArguments, task_type: str, steps: int) -> nn.Module:
    """The model with the adapter of `arguments`; all parameters but those of adapter and head are frozen.

    Args:
        model: A model of `load_encoder`. It is returned as it is if `arguments.adapter` is None.
        arguments: Which adapter.
        task_type: The task type of PEFT, such as `"SEQ_CLS"`.
        steps: Number of training steps (see `planned_steps`), for the schedule of AdaLoRA.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: PEFT has no such adapter, or the adapter cannot be merged into the weights.
    """
    if arguments.adapter is None:
        return model
    try:
        from peft import get_peft_model
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    except ImportError as error:
        raise ImportError('adapters need peft: pip install "mobilebert-hf[peft]"') from error
    mergeable = {
        kind.value: kind for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if hasattr(tuner, "merge_and_unload")
    }
    kind = mergeable.get(arguments.adapter.upper())
    if kind is None:
        raise ValueError(
            f"adapter={arguments.adapter!r}: expected one that can be merged: {', '.join(mergeable).lower()}."
        )
    options: dict[str, Any] = {"task_type": task_type, **parse_mapping("adapter_options", arguments.adapter_options)}
    if kind.value == "ADALORA":
        options.setdefault("total_step", steps)
    if new := getattr(model, "new_modules", []):
        options["modules_to_save"] = [*(options.get("modules_to_save") or []), *new]
    return get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[kind](**options))


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The number of parameters, and of trainable parameters."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def label_fields(labels: tuple[str, ...]) -> dict[str, Any]:
    """The configuration fields for these classes, or for regression if there are none."""
    names = labels or ("score",)
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification" if labels else "regression",
    }
