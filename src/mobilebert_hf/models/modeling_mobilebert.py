"""MobileBERT as `transformers` models: the encoder, and the heads of pre-training.

Checkpoints have the format of stock `mobilebert` checkpoints and load in stock `transformers`. The task heads are in
`modeling_mobilebert_tasks.py`, the teacher is in `modeling_ib_bert.py`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import NextSentencePredictorOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration import MobileBertConfig
from .encoder import Embeddings, Encoder, EncoderLayer, NoNorm
from .heads import EncoderOutput, MaskedLMHead, MaskedLMOutput, Pooler, PreTrainingHeads, PreTrainingOutput


class MobileBertPreTrainedModel(PreTrainedModel):
    """Base class: weight initialization, and what the model supports."""

    config: MobileBertConfig
    config_class = MobileBertConfig
    base_model_prefix = "mobilebert"
    supports_gradient_checkpointing = True
    # The losses are means over a batch. With False, Trainer averages them over accumulated batches.
    accepts_loss_kwargs = False
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _input_embed_layer = "word_embeddings"
    _no_split_modules = ["Embeddings", "EncoderLayer"]  # noqa: RUF012 (the library's form)
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": EncoderLayer,
        "attentions": OutputRecorder(EncoderLayer, index=1),
    }

    def _build_encoder(self, config: Any, add_pooling_layer: bool = True) -> Any:
        return MobileBertModel(config, add_pooling_layer)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NoNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MaskedLMHead):
            init.zeros_(module.bias)
        elif isinstance(module, Embeddings):
            positions = torch.arange(module.position_ids.shape[-1]).expand((1, -1))
            init.copy_(module.position_ids, positions)


class MobileBertModel(MobileBertPreTrainedModel):
    """Embeddings, encoder and, if `add_pooling_layer` is set, a pooler."""

    def __init__(self, config: MobileBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_layer: int = 0,
        stop_layer: int | None = None,
        capture_layers: Collection[int] = (),
        capture_scores: Collection[int] = (),
        layer_inputs: Mapping[int, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple | EncoderOutput:
        """Runs the encoder, or its layers `start_layer` to `stop_layer - 1`.

        Args:
            input_ids: Token ids [batch, seq], int64.
            attention_mask: [batch, seq], 1 for tokens, 0 for padding; or a 4D mask.
            token_type_ids: [batch, seq], int64; zeros by default.
            position_ids: [batch, seq], int64; 0, 1, ... by default.
            inputs_embeds: Word embeddings [batch, seq, embedding_size] in place of `input_ids`. If `start_layer` > 0,
                the input of that layer, [batch, seq, hidden_size].
            start_layer: Index of the first layer to run.
            stop_layer: Index of the first layer not to run. By default all layers and the pooler run.
            capture_layers: Indices of layers whose outputs are returned in `layer_outputs`; -1 is the embeddings.
            capture_scores: Indices of layers whose attention scores are returned in `attention_scores`. These layers
                use eager attention, the others the configured kernel.
            layer_inputs: For each layer that runs, its input [batch, seq, hidden_size] in place of the output of the
                previous layer.
            kwargs: `output_hidden_states`, `output_attentions` (with eager attention), `return_dict`, and arguments
                of the attention kernel.

        Returns:
            `EncoderOutput`, or a tuple of its values.

        Raises:
            ValueError: Both or none of `input_ids` and `inputs_embeds` are given, the sequence is too long, or a
                layer to capture does not run.
            FloatingPointError: The result is not finite in float16 (not checked under `torch.compile`).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        self._check_layers(start_layer, stop_layer, capture_layers, capture_scores, input_ids is None)
        if start_layer == 0:
            inputs_embeds = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, attention_mask)
        kwargs |= {"start": start_layer, "stop": stop_layer, "layer_inputs": layer_inputs}
        kwargs |= {"capture_layers": capture_layers, "capture_scores": capture_scores}
        return self._encode(inputs_embeds, attention_mask, **kwargs)

    def _encode(
        self,
        hidden_states: Any,
        attention_mask: torch.Tensor | None,
        stop: int | None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> EncoderOutput:
        tensor_mask = attention_mask
        if attention_mask is not None and attention_mask.dim() == 2:
            tensor_mask = attention_mask[:, None, None, :].bool()
        hidden_states, layer_outputs, attention_scores = self.encoder(
            hidden_states,
            create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask),
            tensor_mask,
            stop=stop,
            output_attentions=self.config.output_attentions if output_attentions is None else output_attentions,
            **kwargs,
        )
        check_finite(hidden_states)
        return EncoderOutput(
            last_hidden_state=hidden_states,
            pooler_output=self.pooler(hidden_states) if self.pooler is not None and stop is None else None,
            layer_outputs=layer_outputs or None,
            attention_scores=attention_scores or None,
        )

    def _check_layers(
        self,
        start: int,
        stop: int | None,
        capture_layers: Collection[int],
        capture_scores: Collection[int],
        has_embeds: bool,
    ) -> None:
        end = self.config.num_hidden_layers if stop is None else stop
        if not 0 <= start <= end <= self.config.num_hidden_layers:
            raise ValueError(
                f"start_layer={start}, stop_layer={stop} is not a range of layers of a model with "
                f"num_hidden_layers={self.config.num_hidden_layers}."
            )
        if start > 0 and not has_embeds:
            raise ValueError(f"start_layer={start} requires inputs_embeds, the input of that layer, not input_ids.")
        embeddings = {-1} if start == 0 else set()
        for name, layers in (("capture_layers", set(capture_layers) - embeddings), ("capture_scores", capture_scores)):
            if outside := [layer for layer in layers if not start <= layer < end]:
                raise ValueError(f"{name}={list(layers)}: layers {outside} do not run; {start}..{end - 1} do.")


def _computes_in_float16(hidden_states: torch.Tensor) -> bool:
    device = hidden_states.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return autocast or hidden_states.dtype == torch.float16


def check_finite(hidden_states: torch.Tensor) -> None:
    """Raises FloatingPointError if hidden states overflowed float16 or its autocast; not under `torch.compile`.

    Activations of the released MobileBERT reach 1e7. The largest float16 is 65504.
    """
    if torch.compiler.is_compiling() or not _computes_in_float16(hidden_states):
        return
    if not torch.isfinite(hidden_states).all():
        raise FloatingPointError(
            "MobileBERT's activations overflowed float16 and the output is not finite. Load the model with "
            "dtype=torch.bfloat16 or torch.float32 (in training: bf16=True in place of fp16=True)."
        )


class _WithMaskedLMHead(MobileBertPreTrainedModel):
    """Base class of models with a masked-LM head, whose decoder is tied to the word embeddings."""

    cls: PreTrainingHeads
    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.decoder.weight": "mobilebert.embeddings.word_embeddings.weight",
    }

    def get_output_embeddings(self) -> nn.Module:
        """The decoder, whose weight is that of the word embeddings."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Sets the decoder, and the bias that is tied to its bias."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As in the base class; also resizes the head's matrix of the columns beyond the word embeddings."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        dense = self.cls.predictions.dense
        if dense.in_features != embeddings.num_embeddings:
            self.cls.predictions.dense = self._get_resized_lm_head(
                dense, new_num_tokens=embeddings.num_embeddings, transposed=True, mean_resizing=mean_resizing
            )
        return embeddings

    def _predict(
        self, states: torch.Tensor, labels: torch.Tensor | None, prediction_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and labels, at the positions of `prediction_mask` only if it is given."""
        if prediction_mask is not None:
            states = states[prediction_mask]
            labels = None if labels is None else labels[prediction_mask]
        return self.cls.predictions(states), labels


class MobileBertForPreTraining(_WithMaskedLMHead):
    """Masked-LM head and next-sentence head."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config)
        self.mobilebert = self._build_encoder(config)
        self.cls = PreTrainingHeads(config, masked_lm=True, next_sentence=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        next_sentence_label: torch.Tensor | None = None,
        prediction_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | PreTrainingOutput:
        """Runs the encoder and the heads. With `stop_layer` the heads do not run.

        Other arguments are those of `MobileBertModel.forward`.

        Args:
            labels: Masked-LM labels [batch, seq], int64, -100 to ignore a token.
            next_sentence_label: [batch], int64: 0 if B follows A, 1 if it is a random sentence.
            prediction_mask: [batch, seq], bool: compute masked-LM logits at these positions only.
        """
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        output = PreTrainingOutput(
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            layer_outputs=outputs.layer_outputs,
            attention_scores=outputs.attention_scores,
        )
        if outputs.pooler_output is None:
            return output
        output.prediction_logits, labels = self._predict(outputs.last_hidden_state, labels, prediction_mask)
        output.seq_relationship_logits = self.cls.seq_relationship(outputs.pooler_output)
        losses = []
        if labels is not None:
            losses.append(nn.functional.cross_entropy(output.prediction_logits.flatten(0, -2), labels.flatten()))
        if next_sentence_label is not None:
            losses.append(nn.functional.cross_entropy(output.seq_relationship_logits, next_sentence_label.flatten()))
        output.loss = torch.stack(losses).sum() if losses else None
        return output


class MobileBertForMaskedLM(_WithMaskedLMHead):
    """Masked-LM head."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config)
        self.mobilebert = self._build_encoder(config, add_pooling_layer=False)
        self.cls = PreTrainingHeads(config, masked_lm=True, next_sentence=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        prediction_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | MaskedLMOutput:
        """Runs the encoder and the head. With `stop_layer` the head does not run.

        Other arguments are those of `MobileBertModel.forward`.

        Args:
            labels: [batch, seq], int64, -100 to ignore a token.
            prediction_mask: [batch, seq], bool: compute logits [n, vocab_size] at these n positions only.
        """
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        output = MaskedLMOutput(
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            layer_outputs=outputs.layer_outputs,
            attention_scores=outputs.attention_scores,
        )
        if kwargs.get("stop_layer") is not None:
            return output
        output.logits, labels = self._predict(outputs.last_hidden_state, labels, prediction_mask)
        if labels is not None:
            output.loss = self.loss_function(logits=output.logits, labels=labels, vocab_size=self.config.vocab_size)
        return output


class MobileBertForNextSentencePrediction(MobileBertPreTrainedModel):
    """Next-sentence head."""

    def __init__(self, config: MobileBertConfig) -> None:
        super().__init__(config)
        self.mobilebert = self._build_encoder(config)
        self.cls = PreTrainingHeads(config, masked_lm=False, next_sentence=True)
        self.post_init()

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
    ) -> tuple | NextSentencePredictorOutput:
        """Inputs as in `MobileBertModel.forward`; `labels` [batch], int64: 0 if B follows A, 1 if it is random."""
        outputs = self.mobilebert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        logits = self.cls.seq_relationship(outputs.pooler_output)
        loss = nn.functional.cross_entropy(logits, labels.flatten()) if labels is not None else None
        return NextSentencePredictorOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
