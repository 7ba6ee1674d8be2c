"""Metrics as per-example sums, whose mean over a data set is exact for any batch size and number of processes."""

import torch
from torch import Tensor

# For each metric: the sum over the positions of an example, and the number of positions; [batch] each.
MetricSums = dict[str, tuple[Tensor, Tensor]]


def sum_per_example(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts [batch] of values [n] at the n True positions of a mask [batch, seq]."""
    sums = torch.zeros(positions.shape, device=values.device).masked_scatter_(positions, values).sum(1)
    return sums, positions.sum(1)


def stack_sums(metric_sums: MetricSums) -> Tensor:
    """One tensor [examples, metrics, (sum, count)] that can be gathered over processes."""
    return torch.stack([torch.stack((sums.float(), counts.float()), -1) for sums, counts in metric_sums.values()], 1)


def mean_metrics(stacked: Tensor) -> Tensor:
    """The mean of each metric [metrics] of stacked sums [examples, metrics, (sum, count)]; NaN without positions."""
    totals = stacked.double().sum(0)
    return totals[:, 0] / totals[:, 1]


def has_positions(stacked: Tensor) -> Tensor:
    """Whether a metric has any positions, bool [metrics], of stacked sums [examples, metrics, (sum, count)]."""
    return stacked[..., 1].sum(0) > 0
