"""Models: configurations, the encoder, and the `transformers` classes of MobileBERT, IB-BERT and folded MobileBERT."""

from .configuration import PRESETS, IBBertConfig, MobileBertConfig
from .folding import fold
from .modeling_folded import (
    FoldedMobileBertConfig,
    FoldedMobileBertForMaskedLM,
    FoldedMobileBertForMultipleChoice,
    FoldedMobileBertForNextSentencePrediction,
    FoldedMobileBertForPreTraining,
    FoldedMobileBertForQuestionAnswering,
    FoldedMobileBertForSequenceClassification,
    FoldedMobileBertForTokenClassification,
    FoldedMobileBertModel,
)
from .modeling_ib_bert import (
    IBBertForMaskedLM,
    IBBertForMultipleChoice,
    IBBertForNextSentencePrediction,
    IBBertForPreTraining,
    IBBertForQuestionAnswering,
    IBBertForSequenceClassification,
    IBBertForTokenClassification,
    IBBertModel,
)
from .modeling_mobilebert import (
    MobileBertForMaskedLM,
    MobileBertForNextSentencePrediction,
    MobileBertForPreTraining,
    MobileBertModel,
)
from .modeling_mobilebert_tasks import (
    MobileBertForMultipleChoice,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)

__all__ = [
    "PRESETS",
    "FoldedMobileBertConfig",
    "FoldedMobileBertForMaskedLM",
    "FoldedMobileBertForMultipleChoice",
    "FoldedMobileBertForNextSentencePrediction",
    "FoldedMobileBertForPreTraining",
    "FoldedMobileBertForQuestionAnswering",
    "FoldedMobileBertForSequenceClassification",
    "FoldedMobileBertForTokenClassification",
    "FoldedMobileBertModel",
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
    "fold",
]
