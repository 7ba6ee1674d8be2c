"""Examples to batches: padding and dynamic masked-language-model masking."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that transformers' losses skip


# transformers' DataCollatorForLanguageModeling is close, but its whole-word mode replaces 80/10/10 by all-[MASK],
# and it can leave a short example with nothing to predict.
@dataclass
class PretrainingCollator:
    """Pads a batch of sentence pairs and masks tokens anew in each epoch.

    The masks of an example follow from the seed, the epoch and the example alone. So a resumed run sees the masks of
    an uninterrupted one, and neither the batch size nor the number of processes changes what is predicted. The
    trainers of this package keep `epoch` up to date.

    Of the chosen tokens 80 % become `[MASK]`, 10 % a random ordinary token, and 10 % stay. Special tokens and padding
    are never chosen, and an example that has any other token always gets at least one label.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Gives the special ids and the vocabulary.
        mlm_probability (`float`, *optional*, defaults to `0.15`):
            Chance of a token (of a word, with `whole_word_mask`) to be chosen. With 0 nothing is masked at all.
        whole_word_mask (`bool`, *optional*, defaults to `False`):
            Choose whole words, that is a piece and all the `##` pieces that follow it.
        pad_to_multiple_of (`int`, *optional*):
            Round the padded length up to a multiple of this.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all masks.
        epoch (`int`, *optional*, defaults to `0`):
            How many times the data was seen before.

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
        if self.tokenizer.mask_token_id is None or self.tokenizer.pad_token_id is None:
            raise ValueError("masking needs a tokenizer with a mask token and a padding token: set both")
        vocabulary = self.tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        self._special = torch.zeros(size, dtype=torch.bool)
        self._special[self.tokenizer.all_special_ids] = True
        self._continues = torch.zeros(size, dtype=torch.bool)
        self._continues[[index for token, index in vocabulary.items() if token.startswith("##")]] = True
        self._continues &= ~self._special
        if self.whole_word_mask and not self._continues.any():
            raise ValueError(
                "whole_word_mask needs a WordPiece vocabulary, whose pieces inside words start with '##', and this "
                "tokenizer has none: set whole_word_mask to False"
            )
        self._ordinary = torch.tensor(sorted(set(vocabulary.values()) - set(self.tokenizer.all_special_ids)))

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            features (`Sequence[dict]`): examples with `input_ids`, `token_type_ids` and `next_sentence_label`. A
                stream's have their own `epoch`, which counts in place of the collator's.

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
        """Three uniform numbers for each token, (3, batch_size, seq_length), from each example's own generator."""
        draws = np.zeros((3, len(features), width))
        for index, feature in enumerate(features):
            row = feature["input_ids"]
            digest = zlib.crc32(np.asarray(row, dtype=np.int32).tobytes())
            generator = np.random.default_rng((self.seed, feature.get("epoch", self.epoch), digest))
            draws[:, index, : len(row)] = generator.random((3, len(row)))
        return torch.from_numpy(draws)

    def _mask_tokens(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids with masks; and the labels, which are the original ids of the chosen tokens and -100 elsewhere."""
        maskable = attention_mask & ~self._special[input_ids]
        chance, fate, replacement = draws
        chosen = self._choose(input_ids, maskable, chance)
        labels = input_ids.masked_fill(~chosen, IGNORED)
        random = self._ordinary[(replacement * len(self._ordinary)).long()]
        masked = input_ids.masked_fill(chosen & (fate < 0.8), self.tokenizer.mask_token_id)
        return torch.where(chosen & (fate >= 0.9), random, masked), labels

    def _choose(self, input_ids: torch.Tensor, maskable: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Chooses tokens whose score, or whose word's first score, is below the probability."""
        if self.whole_word_mask:
            # Truncation can leave a segment that begins inside a word: what follows a special token starts a word.
            after_special = ~maskable.roll(1, dims=1)
            starts = ~self._continues[input_ids] | ~maskable | after_special
            starts[:, 0] = True
            scores = scores.gather(1, starts.cumsum(1) - 1)
        if self.mlm_probability == 0:
            return torch.zeros_like(maskable)
        scores = scores.masked_fill(~maskable, 1.0)
        lowest = scores.amin(1, keepdim=True)
        return maskable & ((scores < self.mlm_probability) | (scores == lowest))


def _pad(rows: Sequence[Sequence[int]], width: int, value: int) -> torch.Tensor:
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)
