"""What the sums of loss terms are divided by, so that a loss is a mean over the global batch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.masking import IGNORED


class Normalizers(NamedTuple):
    """Token, prediction and example counts of the global batch, scalars.

    They are totals over all processes and accumulated batches, divided by the number of processes because gradients
    are averaged over processes. A global batch has the same losses and gradients however it is distributed.
    """

    tokens: Tensor
    predictions: Tensor
    examples: Tensor

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor], totals: Tensor | int | None) -> "Normalizers":
        """From the totals [3] of `DistillationTrainer.get_batch_samples`; without them, of this batch alone."""
        return cls(*(totals if isinstance(totals, Tensor) else count_batch(inputs).clamp(min=1)))


def count_batch(inputs: Mapping[str, Tensor]) -> Tensor:
    """The numbers of real tokens, masked positions and examples of a batch, int64 [3]."""
    return torch.stack(
        [
            inputs["attention_mask"].sum(),
            (inputs["labels"] != IGNORED).sum(),
            torch.tensor(len(inputs["labels"]), device=inputs["labels"].device),
        ]
    )
