"""The teacher IB-BERT: the student's classes, heads and parameter names, built by its own configuration."""

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
    """What all classes of the teacher's family share."""

    config: IBBertConfig
    config_class = IBBertConfig

    def _build_encoder(self, config: MobileBertConfig, add_pooling_layer: bool = True) -> "IBBertModel":
        return IBBertModel(config, add_pooling_layer)


class IBBertModel(IBBertPreTrainedModel, MobileBertModel):
    """The teacher's encoder; see `MobileBertModel`."""


class IBBertForPreTraining(IBBertPreTrainedModel, MobileBertForPreTraining):
    """The teacher; see `MobileBertForPreTraining`."""


class IBBertForMaskedLM(IBBertPreTrainedModel, MobileBertForMaskedLM):
    """The teacher; see `MobileBertForMaskedLM`."""


class IBBertForNextSentencePrediction(IBBertPreTrainedModel, MobileBertForNextSentencePrediction):
    """The teacher; see `MobileBertForNextSentencePrediction`."""


class IBBertForSequenceClassification(IBBertPreTrainedModel, MobileBertForSequenceClassification):
    """The teacher; see `MobileBertForSequenceClassification`."""


class IBBertForQuestionAnswering(IBBertPreTrainedModel, MobileBertForQuestionAnswering):
    """The teacher; see `MobileBertForQuestionAnswering`."""


class IBBertForTokenClassification(IBBertPreTrainedModel, MobileBertForTokenClassification):
    """The teacher; see `MobileBertForTokenClassification`."""


class IBBertForMultipleChoice(IBBertPreTrainedModel, MobileBertForMultipleChoice):
    """The teacher; see `MobileBertForMultipleChoice`."""
