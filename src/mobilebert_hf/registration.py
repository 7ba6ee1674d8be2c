"""Registers this package with transformers and PEFT. No other module has side effects at import."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, BertTokenizer
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS

from . import models
from .models.modeling_folded import register_kernels
from .pipelines.question_answering import DEFAULT_MODEL, TASK, QuestionAnsweringPipeline
from .runs.facts import ModelRecord
from .runs.publishing import register_publisher
from .tasks.heads import HEADS


def register() -> None:
    """Registers the models with the Auto classes and PEFT, and the question-answering pipeline. Idempotent.

    The Auto classes use this package's MobileBERT instead of the stock one. Stock classes imported by name, and
    existing stock models, do not change.
    """
    families = (
        (models.MobileBertConfig, "MobileBert"),
        (models.IBBertConfig, "IBBert"),
        (models.FoldedMobileBertConfig, "FoldedMobileBert"),
    )
    for config, prefix in families:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoTokenizer.register(config, tokenizer_class=BertTokenizer, exist_ok=True)
        transformers.AutoModel.register(config, getattr(models, f"{prefix}Model"), exist_ok=True)
        for head in HEADS:
            auto_class = getattr(transformers, f"AutoModel{head}")
            auto_class.register(config, getattr(models, f"{prefix}{head}"), exist_ok=True)
    register_kernels()
    _register_pipeline()
    register_publisher(Hub())
    if find_spec("peft") is not None:
        _register_adapters()


class Hub:
    """Model cards and publishing for trainers. Imports the hub package when it is used."""

    def write_card(self, record: ModelRecord, **fields: Any) -> None:
        """See `hub.run_card.write_run_card`."""
        from .hub.run_card import write_run_card

        write_run_card(record, **fields)

    def publish(
        self, folder: str, repo: str, record: ModelRecord, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> Any:
        """See `hub.publish`."""
        from .hub import prepare_publication, publish

        with prepare_publication(folder, repo, record=record, **fields) as publication:
            return publish(publication, **options)


def _register_pipeline() -> None:
    # transformers checks removed tasks before the registry.
    REMOVED_TASKS.pop(TASK, None)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            QuestionAnsweringPipeline,
            pt_model=transformers.AutoModelForQuestionAnswering,
            default={"model": DEFAULT_MODEL},
            type="text",
        )
        # With this attribute, saved pipelines would have a second reference to their code, besides `publish_code`'s.
        delattr(QuestionAnsweringPipeline, "_registered_impl")


def _register_adapters() -> None:
    """Sets PEFT's default target modules to BERT's, which have the same names."""
    from peft.utils import constants

    for config in (models.MobileBertConfig, models.IBBertConfig):
        for name, modules in vars(constants).items():
            if name.startswith("TRANSFORMERS_MODELS_TO_") and "bert" in modules:
                modules.setdefault(config.model_type, modules["bert"])
        constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING[config.model_type] = ["LayerNorm"]
