"""Configurations of the two networks: the student MobileBERT and its teacher IB-BERT.

Both describe the same encoder (`encoder.py`); only the numbers differ. The paper's settings are named presets:

    MobileBertConfig.from_preset("mobilebert-tiny", vocab_size=8000)
    IBBertConfig.from_preset("ib-bert-large")
"""

from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import MobileBertConfig as StockMobileBertConfig
from transformers.activations import ACT2FN

NORMALIZATION_TYPES = ("layer_norm", "no_norm")
_COUNTS = (
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
# The original's gelu is the tanh approximation.
_NOT_OPTIMIZED = {"normalization_type": "layer_norm", "hidden_act": "gelu_pytorch_tanh"}
_STUDENT = {"classifier_activation": False, "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.0}

# Paper, table 1 and section 4.2 ("operational optimizations" = no_norm and relu).
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
    r"""Configuration of the student, saved in exactly the stock `mobilebert` format plus one field.

    Instantiating it with the defaults gives a configuration similar to that of
    [google/mobilebert-uncased](https://huggingface.co/google/mobilebert-uncased). The fields are those of
    `transformers.MobileBertConfig`, and so are the defaults: a stock `config.json` means here what it means there.
    The widths: `embedding_size` (word table), `hidden_size` (between blocks),
    `intra_bottleneck_size` (inside a block), `intermediate_size` (inside a feed-forward network).

    Args:
        mask_padding (`bool`, *optional*, defaults to `True`):
            Whether padding is kept out of the trigram embedding, so that a text gives the same output alone and in
            a padded batch: embeddings of padded positions count as zero, as beyond the ends of the sequence, and the
            `[PAD]` row of the word table stays zero in training (which makes stock transformers agree as well).
            A `config.json` without this field, such as that of `google/mobilebert-uncased`, is read as `False`:
            the released models saw the `[PAD]` embedding as the last token's neighbour, and stock numbers are
            matched. `True` for newly made models.

    Raises:
        ValueError: A field has a value no network can be built from; names the field, the value, what is allowed.
    """

    mask_padding: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_fields()
        # A derived value that stock saves too: read back, it would win over the fields it is derived from.
        kwargs.pop("true_hidden_size", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """The paper's configuration `name` (a key of `PRESETS` of this family), with fields overridden.

        Raises:
            ValueError: `name` is not a preset of this family.
        """
        allowed = [preset for preset in PRESETS if preset.startswith("ib-bert") == (cls.model_type == "ib_bert")]
        if name not in allowed:
            raise ValueError(f"preset={name!r} is not one of {cls.__name__}'s presets: {', '.join(allowed)}.")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As the library's; a dictionary that says nothing of `mask_padding` is a stock one: `False`."""
        # The library sets overriding fields on the finished object, past the checks and `true_hidden_size`.
        overrides = {field: value for field, value in kwargs.items() if field in cls.__dataclass_fields__}
        return super().from_dict({"mask_padding": False, **config_dict, **overrides}, **kwargs)

    def _check_fields(self) -> None:
        for field in _COUNTS:
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

    def _check(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ValueError(
                f"{type(self).__name__}: {field}={getattr(self, field)!r} is not allowed; it must be {allowed}."
            )


@strict
class IBBertConfig(MobileBertConfig):
    r"""Configuration of the teacher IB-BERT; the defaults are IB-BERT_LARGE's (paper, table 1).

    The same fields as `MobileBertConfig`. What makes it the teacher: blocks as wide as BERT_LARGE's
    (`intra_bottleneck_size` 1024) between feature maps as narrow as the student's (`hidden_size` 512), query and
    key read the block input itself, one feed-forward network, gelu, LayerNorm, a pooler.
    """

    model_type = "ib_bert"

    intra_bottleneck_size: int = 1024
    intermediate_size: int = 4096
    num_feedforward_networks: int = 1
    key_query_shared_bottleneck: bool = False
    hidden_act: str = "gelu_pytorch_tanh"
    normalization_type: str = "layer_norm"
    hidden_dropout_prob: float | int = 0.1
