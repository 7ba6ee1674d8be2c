"""The teacher IB-BERT: the classes, heads and parameter names of MobileBERT with another configuration."""

from .configuration import IBBertConfig, MobileBertConfig
from .modeling_mobilebert import (
    MobileBertForMaskedLM,
    MobileBertForNextSentencePrediction,
    MobileBertForPreTraining,
    MobileBertModel,
    MobileBertPreTrainedModel,
)
from .modeling_mobilebert_tasks import (
    MobileBertForMultipleChoice,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)


class IBBertPreTrainedModel(MobileBertPreTrainedModel):
    """Base class of the IB-BERT models."""

    config: IBBertConfig
    config_class = IBBertConfig

    def _build_encoder(self, config: MobileBertConfig, add_pooling_layer: bool = True) -> "IBBertModel":
        return IBBertModel(config, add_pooling_layer)


class IBBertModel(IBBertPreTrainedModel, MobileBertModel):
    """IB-BERT encoder; see `MobileBertModel`."""


class IBBertForPreTraining(IBBertPreTrainedModel, MobileBertForPreTraining):
    """IB-BERT; see `MobileBertForPreTraining`."""


class IBBertForMaskedLM(IBBertPreTrainedModel, MobileBertForMaskedLM):
    """IB-BERT; see `MobileBertForMaskedLM`."""


class IBBertForNextSentencePrediction(IBBertPreTrainedModel, MobileBertForNextSentencePrediction):
    """IB-BERT; see `MobileBertForNextSentencePrediction`."""


class IBBertForSequenceClassification(IBBertPreTrainedModel, MobileBertForSequenceClassification):
    """IB-BERT; see `MobileBertForSequenceClassification`."""


class IBBertForQuestionAnswering(IBBertPreTrainedModel, MobileBertForQuestionAnswering):
    """IB-BERT; see `MobileBertForQuestionAnswering`."""


class IBBertForTokenClassification(IBBertPreTrainedModel, MobileBertForTokenClassification):
    """IB-BERT; see `MobileBertForTokenClassification`."""


class IBBertForMultipleChoice(IBBertPreTrainedModel, MobileBertForMultipleChoice):
    """IB-BERT; see `MobileBertForMultipleChoice`."""
