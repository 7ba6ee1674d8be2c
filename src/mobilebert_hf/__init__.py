"""MobileBERT for the Hugging Face ecosystem. Importing registers both networks with the Auto classes."""

from .models import (
    PRESETS,
    IBBertConfig,
    IBBertForMaskedLM,
    IBBertForMultipleChoice,
    IBBertForNextSentencePrediction,
    IBBertForPreTraining,
    IBBertForQuestionAnswering,
    IBBertForSequenceClassification,
    IBBertForTokenClassification,
    IBBertModel,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertForMultipleChoice,
    MobileBertForNextSentencePrediction,
    MobileBertForPreTraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
    MobileBertModel,
)
from .registration import register

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "IBBertConfig",
    "IBBertForMaskedLM",
    "IBBertForMultipleChoice",
    "IBBertForNextSentencePrediction",
    "IBBertForPreTraining",
    "IBBertForQuestionAnswering",
    "IBBertForSequenceClassification",
    "IBBertForTokenClassification",
    "IBBertModel",
    "MobileBertConfig",
    "MobileBertForMaskedLM",
    "MobileBertForMultipleChoice",
    "MobileBertForNextSentencePrediction",
    "MobileBertForPreTraining",
    "MobileBertForQuestionAnswering",
    "MobileBertForSequenceClassification",
    "MobileBertForTokenClassification",
    "MobileBertModel",
    "register",
]

register()
