"""The objective of sentence encoders: their embeddings, as they come out of the modules after the network."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.metric_sums import MetricSums
from ..training.normalizers import Normalizers
from .losses import mean_pool
from .networks import Needs
from .objectives import LossTerms, OutputObjective, Outputs

# From the last output of a network [batch, seq, width] and its inputs to embeddings [batch, dimensions].
Pool = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
# Differences of similarities are squared, and so are much smaller than distances.
MATRYOSHKA_WEIGHT = 10.0


class SentenceEmbeddings(OutputObjective):
    """Embeddings: `pooled_distance`, 1 - cosine similarity of the student's and the teacher's.

    If the teacher's similarity depends on lengths it is the squared distance instead, relative to twice the square of
    the teacher's length, which is the same for embeddings of length 1. Evaluation adds `pooled_similarity`.

    With `dimensions` the first d dimensions of the student's embeddings are trained to keep the similarities of the
    teacher: `first_<d>` is the mean squared difference of the similarities of all pairs of a batch (Kusupati et al.,
    "Matryoshka Representation Learning", arXiv 2205.13147; Park et al., "Relational Knowledge Distillation", arXiv
    1904.05068).

    Args:
        weight: Weight of the loss.
        pool: The modules after both networks; by default the mean over real tokens.
        compare_lengths: Whether the teacher's similarity depends on the lengths of embeddings.
        dimensions: Numbers of dimensions that are to be of use by themselves.
    """

    needed = Needs(last_hidden_state=True)

    def __init__(
        self, weight: float, pool: Pool | None = None, compare_lengths: bool = False, dimensions: Sequence[int] = ()
    ) -> None:
        self.weight, self.compare_lengths, self.dimensions = weight, compare_lengths, tuple(dimensions)
        self.pool: Pool = pool or (lambda states, inputs: mean_pool(states.float(), inputs["attention_mask"]))

    def output_loss(self, outputs: Outputs, normalizers: Normalizers) -> tuple[Tensor, LossTerms]:
        """Means over the examples."""
        student, teacher = self._embed(outputs)
        terms = {"pooled_distance": self._distance(student, teacher), **self._differences(student, teacher)}
        means = {name: values.sum() / normalizers.examples for name, values in terms.items()}
        loss = means["pooled_distance"]
        if self.dimensions:
            loss = loss + MATRYOSHKA_WEIGHT * torch.stack([means[f"first_{d}"] for d in self.dimensions]).mean()
        return self.weight * loss, means

    def metrics(self, outputs: Outputs) -> MetricSums:
        """The terms and the similarity of the examples."""
        student, teacher = self._embed(outputs)
        similarity = F.cosine_similarity(student, teacher, dim=-1)
        one = torch.ones_like(similarity)
        values = {"pooled_distance": self._distance(student, teacher), "pooled_similarity": similarity}
        return {name: (value, one) for name, value in {**values, **self._differences(student, teacher)}.items()}

    def evaluation_losses(self, num_layers: int) -> tuple[str, ...]:
        """The distance."""
        return ("pooled_distance",)

    def _embed(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        states = outputs.student.last_hidden_state, outputs.teacher.last_hidden_state
        assert states[0] is not None
        assert states[1] is not None
        if isinstance(self.pool, torch.nn.Module):
            self.pool.to(states[0].device)
        return self.pool(states[0], outputs.inputs), self.pool(states[1], outputs.inputs)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[batch]."""
        if not self.compare_lengths:
            return 1 - F.cosine_similarity(student, teacher, dim=-1)
        return (student - teacher).square().sum(-1) / (2 * teacher.square().sum(-1)).clamp(min=1e-12)

    def _differences(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """[batch] for each number of dimensions: the mean over the other texts of the batch."""
        scale = teacher.square().sum(-1).mean().clamp(min=1e-12) if self.compare_lengths else None
        others, expected = max(1, len(student) - 1), _similarities(teacher, scale)
        return {
            f"first_{d}": (_similarities(student[:, :d], scale) - expected).square().fill_diagonal_(0).sum(1) / others
            for d in self.dimensions
        }


def _similarities(embeddings: Tensor, scale: Tensor | None) -> Tensor:
    """Cosines of all pairs [batch, batch] or, with a scale, scalar products."""
    if scale is None:
        embeddings = F.normalize(embeddings, dim=-1)
        return embeddings @ embeddings.T
    return embeddings @ embeddings.T / scale
