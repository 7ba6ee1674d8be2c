"""Collates examples into batches, with padding and dynamic masking."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that transformers' losses skip


# With whole-word masking, transformers' DataCollatorForLanguageModeling replaces every token by [MASK]. It can also
# select no token of a short example.
@dataclass
class PretrainingCollator:
    """Pads a batch and masks tokens, differently in each epoch.

    The masks depend only on the seed, the epoch and the example. A resumed run has the same masks as an uninterrupted
    one, with any batch size and number of processes. The trainers of this package set `epoch`.

    80 % of the selected tokens are replaced by `[MASK]`, 10 % by a random token, and 10 % are not changed. Special
    tokens and padding are never selected. At least one token of each example is selected.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer with a mask and a padding token.
        mlm_probability (`float`, *optional*, defaults to `0.15`):
            Probability to select a token, or a word with `whole_word_mask`. 0 disables masking.
        whole_word_mask (`bool`, *optional*, defaults to `False`):
            Whether to select whole words (a token and the `##` tokens after it).
        pad_to_multiple_of (`int`, *optional*):
            Round the padded length up to a multiple of this.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the masks.
        epoch (`int`, *optional*, defaults to `0`):
            Index of the epoch.

    Raises:
        ValueError: if the tokenizer lacks a mask or padding token, or if `whole_word_mask` is set and no token of
            the vocabulary starts with `##`.
    """

    tokenizer: PreTrainedTokenizerBase
    mlm_probability: float = 0.15
    whole_word_mask: bool = False
    pad_to_multiple_of: int | None = None
    seed: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mlm_probability < 1:
            raise ValueError(f"mlm_probability is {self.mlm_probability}: expected a value from 0 to below 1")
        if self.tokenizer.pad_token_id is None or (self.mlm_probability > 0 and self.tokenizer.mask_token_id is None):
            raise ValueError("masking requires a tokenizer with a mask token and a padding token: set both")
        vocabulary = self.tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        self._special = torch.zeros(size, dtype=torch.bool)
        self._special[self.tokenizer.all_special_ids] = True
        self._continues = torch.zeros(size, dtype=torch.bool)
        self._continues[[index for token, index in vocabulary.items() if token.startswith("##")]] = True
        self._continues &= ~self._special
        if self.whole_word_mask and not self._continues.any():
            raise ValueError(
                "whole_word_mask needs a WordPiece vocabulary, and this tokenizer has no token that starts with '##': "
                "set whole_word_mask to False"
            )
        self._ordinary = torch.tensor(sorted(set(vocabulary.values()) - set(self.tokenizer.all_special_ids)))

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collates a batch.

        Args:
            features (`Sequence[dict]`): examples with `input_ids`, `token_type_ids` and `next_sentence_label`. If they
                have an `epoch`, as in a stream, it replaces the collator's.

        Returns:
            `dict[str, torch.Tensor]`: `input_ids`, `attention_mask`, `token_type_ids` and `labels` of shape
            `(batch_size, seq_length)` and `next_sentence_label` of shape `(batch_size,)`, all int64.
        """
        lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
        multiple = self.pad_to_multiple_of or 1
        width = -(-int(lengths.max()) // multiple) * multiple
        attention_mask = torch.arange(width) < lengths[:, None]
        pad_token_id = self.tokenizer.pad_token_id
        input_ids = _pad([feature["input_ids"] for feature in features], width, pad_token_id)
        draws = self._draw(features, width)
        masked, labels = self._mask_tokens(input_ids, attention_mask, draws)
        return {
            "input_ids": masked,
            "attention_mask": attention_mask.long(),
            "token_type_ids": _pad([feature["token_type_ids"] for feature in features], width, 0),
            "labels": labels,
            "next_sentence_label": torch.tensor([int(feature["next_sentence_label"]) for feature in features]),
        }

    def _draw(self, features: Sequence[dict[str, Any]], width: int) -> torch.Tensor:
        """Three uniform random numbers per token, (3, batch_size, seq_length), from a generator per example."""
        draws = np.zeros((3, len(features), width))
        for index, feature in enumerate(features):
            ids = feature["input_ids"]
            digest = zlib.crc32(np.asarray(ids, dtype=np.int32).tobytes())
            generator = np.random.default_rng((self.seed, feature.get("epoch", self.epoch), digest))
            draws[:, index, : len(ids)] = generator.random((3, len(ids)))
        return torch.from_numpy(draws)

    def _mask_tokens(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The masked ids, and the labels: the original ids of the selected tokens, -100 elsewhere."""
        if self.mlm_probability == 0:
            return input_ids, torch.full_like(input_ids, IGNORED)
        maskable = attention_mask & ~self._special[input_ids]
        scores, action, replacement = draws
        selected = self._select(input_ids, maskable, scores)
        labels = input_ids.masked_fill(~selected, IGNORED)
        random = self._ordinary[(replacement * len(self._ordinary)).long()]
        masked = input_ids.masked_fill(selected & (action < 0.8), self.tokenizer.mask_token_id)
        return torch.where(selected & (action >= 0.9), random, masked), labels

    def _select(self, input_ids: torch.Tensor, maskable: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Selects tokens whose score, or the score of their word's first token, is below the probability."""
        if self.whole_word_mask:
            # A truncated segment can begin inside a word. A token after a special token always starts a word.
            after_special = ~maskable.roll(1, dims=1)
            starts = ~self._continues[input_ids] | ~maskable | after_special
            starts[:, 0] = True
            scores = scores.gather(1, starts.cumsum(1) - 1)
        scores = scores.masked_fill(~maskable, 1.0)
        lowest = scores.amin(1, keepdim=True)
        return maskable & ((scores < self.mlm_probability) | (scores == lowest))


def _pad(sequences: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    padded = np.full((len(sequences), width), value, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)
