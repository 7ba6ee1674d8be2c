"""The one place with global effects: makes the Auto classes of `transformers` build this package's networks."""

import transformers
from transformers import AutoConfig, AutoTokenizer, BertTokenizer

from . import models

# AutoModelForX is registered for ...ForX of both families.
HEADS = (
    "PreTraining",
    "MaskedLM",
    "NextSentencePrediction",
    "SequenceClassification",
    "QuestionAnswering",
    "TokenClassification",
    "MultipleChoice",
)


def register() -> None:
    """Registers both families with AutoConfig, AutoModel..., AutoTokenizer; `mobilebert` replaces the stock one.

    Registering twice changes nothing. Models and configurations of stock `transformers` classes made before or
    imported by name keep working as they are.
    """
    for config, prefix in ((models.MobileBertConfig, "MobileBert"), (models.IBBertConfig, "IBBert")):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoTokenizer.register(config, tokenizer_class=BertTokenizer, exist_ok=True)
        transformers.AutoModel.register(config, getattr(models, f"{prefix}Model"), exist_ok=True)
        for head in HEADS:
            auto_class = getattr(transformers, f"AutoModelFor{head}")
            auto_class.register(config, getattr(models, f"{prefix}For{head}"), exist_ok=True)
