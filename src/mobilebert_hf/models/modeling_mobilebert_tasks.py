"""MobileBERT for sequence and token classification, multiple choice and question answering."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from .configuration import MobileBertConfig
from .modeling_mobilebert import MobileBertPreTrainedModel


class _Classifier(MobileBertPreTrainedModel):
    """An encoder with dropout and a linear layer, `classifier`."""

    def __init__(self, config: MobileBertConfig, num_outputs: int | None, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mobilebert = self._build_encoder(config, add_pooling_layer)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, num_outputs or 0)
        self.post_init()


class MobileBertForSequenceClassification(_Classifier):
    """Classification or regression of a sequence or a pair of sequences (GLUE)."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config, config.num_labels)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | SequenceClassifierOutput:
        """Inputs as in `MobileBertModel.forward`; `labels` as `config.problem_type` requires."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MobileBertForMultipleChoice(_Classifier):
    """A score for each choice; inputs are [batch, choices, seq]."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config, num_outputs=1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | MultipleChoiceModelOutput:
        """Inputs as in `MobileBertModel.forward`, with shape [batch, choices, ...]; `labels` [batch], int64."""
        first = input_ids if input_ids is not None else inputs_embeds
        if first is None:
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        choices = first.shape[1]
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.mobilebert(
            *(x.flatten(0, 1) if x is not None else None for x in inputs), return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, choices)
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return MultipleChoiceModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MobileBertForTokenClassification(_Classifier):
    """A label for each token (named entities, parts of speech)."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config, config.num_labels, add_pooling_layer=False)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | TokenClassifierOutput:
        """Inputs as in `MobileBertModel.forward`; `labels` [batch, seq], int64, -100 to ignore a token."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, config=self.config)
        return TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MobileBertForQuestionAnswering(MobileBertPreTrainedModel):
    """Start and end logits of an answer span (SQuAD)."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mobilebert = self._build_encoder(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | QuestionAnsweringModelOutput:
        """Inputs as in `MobileBertModel.forward`; positions [batch], int64, of the answer's first and last token."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        return QuestionAnsweringModelOutput(
            loss=self.loss_function(start_logits, end_logits, start_positions, end_positions),
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
