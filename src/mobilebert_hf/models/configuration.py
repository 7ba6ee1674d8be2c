"""Configurations of the student MobileBERT and its teacher IB-BERT.

Both configure the same encoder (`encoder.py`). The paper's models are presets:

    MobileBertConfig.from_preset("mobilebert-tiny", vocab_size=8000)
    IBBertConfig.from_preset("ib-bert-large")
"""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import MobileBertConfig as StockMobileBertConfig
from transformers.activations import ACT2FN

NORMALIZATION_TYPES = ("layer_norm", "no_norm")
_POSITIVE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "embedding_size",
    "max_position_embeddings",
    "type_vocab_size",
    "intermediate_size",
    "intra_bottleneck_size",
    "num_feedforward_networks",
)

_OPTIMIZED = {"normalization_type": "no_norm", "hidden_act": "relu"}
# The original code's gelu is the tanh approximation.
_NOT_OPTIMIZED = {"normalization_type": "layer_norm", "hidden_act": "gelu_pytorch_tanh"}
_STUDENT = {"classifier_activation": False, "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.0}

# Paper, table 1 and section 4.2. Its "operational optimizations" are no_norm and relu.
PRESETS: dict[str, dict[str, Any]] = {
    "ib-bert-large": {},
    "mobilebert": {**_STUDENT, **_OPTIMIZED},
    "mobilebert-tiny": {
        **_STUDENT,
        **_OPTIMIZED,
        "num_feedforward_networks": 2,
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
    },
    "mobilebert-noopt": {**_STUDENT, **_NOT_OPTIMIZED},
}


@strict
class MobileBertConfig(StockMobileBertConfig):
    r"""Configuration of MobileBERT. It is saved in the stock `mobilebert` format plus one field.

    Instantiating it with the defaults gives a configuration similar to that of
    [google/mobilebert-uncased](https://huggingface.co/google/mobilebert-uncased). The fields and their defaults are
    those of `transformers.MobileBertConfig`. The widths are `embedding_size` (word embeddings), `hidden_size` (between
    layers), `intra_bottleneck_size` (inside a layer) and `intermediate_size` (inside a feed-forward network).

    Args:
        mask_padding (`bool`, *optional*, defaults to `True`):
            Whether the trigram embedding ignores padding, so that a sequence gives the same output alone and in a
            padded batch. Embeddings of padded positions are zero, and the `[PAD]` embedding stays zero in training.
            If `config.json` lacks this field, as in `google/mobilebert-uncased`, it is `False`: these models were
            trained with the `[PAD]` embedding as the last token's neighbour, as in stock `transformers`.

    Raises:
        ValueError: A field has an invalid value.
    """

    mask_padding: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_fields()
        # Stock transformers saves this derived value. When loaded, it would override the fields it is derived from.
        kwargs.pop("true_hidden_size", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Creates the paper's configuration `name`, a key of `PRESETS`, with `overrides` of its fields.

        Raises:
            ValueError: `name` is not a preset of this class.
        """
        allowed = [preset for preset in PRESETS if preset.startswith("ib-bert") == (cls.model_type == "ib_bert")]
        if name not in allowed:
            raise ValueError(f"preset={name!r} is not one of {cls.__name__}'s presets: {', '.join(allowed)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As in the base class; `mask_padding` is `False` if `config_dict` lacks it, as stock configurations do."""
        # The base class sets overrides after construction, without the checks and `true_hidden_size`.
        overrides = {field: value for field, value in kwargs.items() if field in cls.__dataclass_fields__}
        return super().from_dict({"mask_padding": False, **config_dict, **overrides}, **kwargs)

    def _check_fields(self) -> None:
        for field in _POSITIVE_FIELDS:
            self._check(field, getattr(self, field) >= 1, "a positive integer")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self._check(field, 0 <= getattr(self, field) < 1, "a probability in [0, 1)")
        self._check("classifier_dropout", 0 <= (self.classifier_dropout or 0) < 1, "None or a probability in [0, 1)")
        self._check("hidden_act", self.hidden_act in ACT2FN, f"one of {', '.join(sorted(ACT2FN))}")
        self._check(
            "normalization_type",
            self.normalization_type in NORMALIZATION_TYPES,
            f"one of {', '.join(NORMALIZATION_TYPES)}",
        )
        width_field = "intra_bottleneck_size" if self.use_bottleneck else "hidden_size"
        self._check(
            width_field,
            getattr(self, width_field) % self.num_attention_heads == 0,
            f"a multiple of num_attention_heads={self.num_attention_heads}",
        )
        if self.pad_token_id is not None:
            in_vocabulary = 0 <= self.pad_token_id < self.vocab_size
            self._check("pad_token_id", in_vocabulary, f"in [0, vocab_size={self.vocab_size})")

    def _check(self, field: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise ValueError(
                f"{type(self).__name__}: {field}={getattr(self, field)!r} is not allowed; it must be {allowed}."
            )


@strict
class IBBertConfig(MobileBertConfig):
    r"""Configuration of the teacher IB-BERT. The defaults are those of IB-BERT_LARGE (paper, table 1).

    The fields are those of `MobileBertConfig`. Layers are as wide as BERT_LARGE's inside (`intra_bottleneck_size`
    1024), and their outputs are as narrow as the student's (`hidden_size` 512). Query and key read the layer's input.
    There are one feed-forward network per layer, gelu, LayerNorm and a pooler.
    """

    model_type = "ib_bert"

    intra_bottleneck_size: int = 1024
    intermediate_size: int = 4096
    num_feedforward_networks: int = 1
    key_query_shared_bottleneck: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    normalization_type: str = "layer_norm"
    hidden_dropout_prob: float | int = 0.1
