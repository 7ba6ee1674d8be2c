"""What both fine-tuning recipes train with."""

from typing import Any

from torch.utils.data import Sampler, SequentialSampler

from ..training import DurableTrainer


class FineTuner(DurableTrainer):
    """Training batches are of similar length, and predictions are in the order of the data."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.args.train_sampling_strategy = "group_by_length"

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # The library would group these by length, too, in a random order that nobody is told of.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None
