"""What happens between two log lines: the means of the loss terms, and the speed of training."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Sums loss terms and tokens on their device until they are read, without synchronizing with the host."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._terms: dict[str, dict[int, Tensor]] = defaultdict(dict)
        self._tokens: Tensor | int = 0
        self._begin: tuple[int, float] | None = None

    def begin_step(self, step: int, tokens: Tensor) -> None:
        """Counts the real tokens of a global step's batch, a scalar over all processes."""
        if self._begin is None:
            self._begin = step, time.perf_counter()
        self._tokens = self._tokens + tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of the context, such as an evaluation, from the speed."""
        begin = time.perf_counter()
        yield
        if self._begin is not None:
            step, began = self._begin
            self._begin = step, began + time.perf_counter() - begin

    def record(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Adds the scalars of one of the accumulated batches of a step."""
        for name, value in terms.items():
            steps = self._terms[name]
            steps[step] = steps[step] + value.detach().float() if step in steps else value.detach().float()

    def at(self, step: int) -> dict[str, Tensor]:
        """The terms recorded for a step."""
        return {name: steps[step] for name, steps in self._terms.items() if step in steps}

    def read(
        self, step: int, work: Callable[[int], float], last_step: int, reduce: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """The values of a log line since the last call.

        Args:
            step: The number of steps taken.
            work: From a number of steps to their total cost, in any unit.
            last_step: The number of steps of the training.
            reduce: Averages a tensor over the processes.

        Returns:
            The mean of each term over the steps that had it; `tokens_per_second` of all processes together, padding
            not counted; and `hours_left`, from the time that the work since the last call took.
        """
        if self._begin is None:
            return {}
        means = torch.stack([torch.stack(list(steps.values())).mean() for steps in self._terms.values()])
        values = dict(zip(self._terms, reduce(means).tolist(), strict=True))
        first_step, began = self._begin
        seconds = time.perf_counter() - began
        values["tokens_per_second"] = float(self._tokens) / seconds
        values["hours_left"] = seconds * (work(last_step) - work(step)) / (work(step) - work(first_step)) / 3600
        self._restart()
        return values
