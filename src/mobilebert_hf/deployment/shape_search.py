"""Finds the student that keeps most of its teacher within a latency or a file size on this machine.

The candidates are pruned copies of the teacher with each number of layers and several numbers of neurons. Their cost
grows linearly with both, so four of them are exported with random weights and timed, and the cost of the others
follows. Of those that fit, the widest of each number of layers is initialized from the teacher on a sample of the
corpus; the one whose output is nearest to the teacher's is the choice, if its own export confirms its cost.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..data import PretrainingCollator, PretrainingDataArguments, prepare_pretraining_data
from ..distillation import EncoderTeacher, StudentArguments
from ..distillation.networks import Needs, encoder_inputs
from ..distillation.shapes import Shape, choose_layers, choose_size, count_parameters, student_shape
from ..distillation.students import StudentPlan
from ..distillation.teacher_files import load_teacher
from ..distillation.teachers import find_layers
from ..machine import time_interleaved
from ..models.modeling_mobilebert import MobileBertModel
from ..tasks.heads import TASKS
from .exporting import find_format
from .network import prepare_for_export
from .student import sample_inputs

# Shares of the teacher's neurons, rounded to multiples of what all runtimes are fast at.
NEURON_SHARES, MULTIPLE = (1 / 12, 1 / 6, 1 / 3, 2 / 3, 1.0), 16
LENGTH = 128
TIMED_SECONDS = 1.5
SAMPLE_CHARACTERS, HELD_OUT = 1_000_000, 256
# The cost of a candidate may be this much above the limit: it is measured to a few percent.
SLACK = 1.03


class Cost(NamedTuple):
    """Median milliseconds of a text of `LENGTH` tokens, and megabytes of the file."""

    milliseconds: float
    megabytes: float


@dataclass(frozen=True)
class Limits:
    """What a student may cost.

    Args:
        milliseconds: For a text of 128 tokens, or None.
        megabytes: Of the exported file, or None.
        target: A format of `export`, with `-int8` for dynamic quantization: `"onnx"`, `"onnx-int8"`, `"tflite-int8"`.
        threads: Threads of the runtime.
    """

    milliseconds: float | None
    megabytes: float | None
    target: str = "onnx-int8"
    threads: int = 2

    def __post_init__(self) -> None:
        if self.milliseconds is None and self.megabytes is None:
            raise ValueError("expected a limit: latency in milliseconds, or size in megabytes.")
        find_format(self.target.removesuffix("-int8"))

    def allow(self, cost: Cost, slack: float = 1.0) -> bool:
        """Whether a cost is within all limits."""
        pairs = zip(cost, (self.milliseconds, self.megabytes), strict=True)
        return all(limit is None or value <= slack * limit for value, limit in pairs)


@dataclass(frozen=True)
class Candidate:
    """A student that could be trained.

    Args:
        shape: Its configuration and the teacher's layers.
        cost: As predicted or, of the choice, as measured.
        similarity: The mean cosine of its output and the teacher's on held-out text before training.
    """

    shape: Shape
    cost: Cost
    similarity: float

    @property
    def options(self) -> list[str]:
        """The options of `distill` that make this student."""
        layers = ",".join(map(str, self.shape.mapping))
        overrides = f'{{"intermediate_size": {self.shape.config.intermediate_size}}}'
        return ["--size", "pruned", "--layers", layers, "--config_overrides", overrides]


def search_shape(teacher: str, corpus: Sequence[str], limits: Limits) -> tuple[Candidate, list[Candidate]]:
    """The best student within limits, and all candidates that were compared, the best first.

    Args:
        teacher: Hub id or folder of an encoder with the layers of BERT.
        corpus: Sources of text, of which a sample is read.
        limits: What the student may cost.

    Raises:
        ValueError: The teacher cannot be pruned, or nothing fits; the message names the cheapest candidate.
    """
    loaded = load_teacher(StudentArguments(teacher=teacher))
    network, output, tokenizer = loaded.network, loaded.output, loaded.tokenizer
    choose_size(network, "pruned")
    shapes = list_shapes(network)
    costs = predict_costs(shapes, limits)
    fitting = {len(shape.mapping): shape for shape in shapes if limits.allow(costs[shape_key(shape)])}
    if not fitting:
        cheapest = min(costs.values())
        raise ValueError(
            f"no pruned student of {teacher} fits: the smallest takes {cheapest.milliseconds:.1f} ms and "
            f"{cheapest.megabytes:.1f} MB in {limits.target}. Raise the limit, trim the vocabulary (keep_vocabulary), "
            "or choose size=tiny."
        )
    data = PretrainingDataArguments(
        corpus=list(corpus),
        examples="sentences" if output == "pooled" else "windows",
        max_characters=SAMPLE_CHARACTERS,
    )
    examples: Any = prepare_pretraining_data(data, tokenizer)
    collate = PretrainingCollator(tokenizer)
    held_out = collate(list(examples["validation"].select(range(min(HELD_OUT, len(examples["validation"]))))))
    found = []
    for shape in fitting.values():
        plan = StudentPlan(EncoderTeacher(network, shape.mapping), shape.config, output, tokenizer, loaded.sentence)
        student = plan.initialize(0, examples["train"], collate).model
        found.append(Candidate(shape, costs[shape_key(shape)], compare(student, plan, held_out)))
    found.sort(key=lambda candidate: -candidate.similarity)
    for index, candidate in enumerate(found):
        found[index] = replace(candidate, cost=measure([candidate.shape], limits)[0])
        if limits.allow(found[index].cost, SLACK):
            return found[index], found
    raise ValueError(f"no candidate was within the limits when it was measured; the best took {found[0].cost}.")


@torch.no_grad()
def compare(student: PreTrainedModel, plan: StudentPlan, batch: Mapping[str, Tensor]) -> float:
    """The mean cosine of the last layers of student and teacher; of sentence encoders, that of the embeddings."""
    needs, real = Needs(last_hidden_state=True), batch["attention_mask"].bool()
    expected = cast(Tensor, plan.teacher(batch, needs).last_hidden_state)
    found = student.eval().base_model(**encoder_inputs(batch)).last_hidden_state
    if plan.sentence is not None:
        pairs = plan.sentence(found, batch), plan.sentence(expected, batch)
        return float(torch.nn.functional.cosine_similarity(*pairs, dim=-1).mean())
    return float(torch.nn.functional.cosine_similarity(found, expected, dim=-1)[real].mean())


def shape_key(shape: Shape) -> tuple[int, int]:
    """The numbers of layers and of neurons."""
    return len(shape.mapping), shape.config.intermediate_size


def list_shapes(network: PreTrainedModel) -> list[Shape]:
    """All candidates, those with fewer layers and neurons first."""
    count, inner = len(find_layers(network)), student_shape(network, "kept").config.intermediate_size
    sizes = sorted({max(MULTIPLE, round(inner * share / MULTIPLE) * MULTIPLE) for share in NEURON_SHARES})
    return [
        student_shape(network, "pruned", ",".join(map(str, choose_layers(count, kept))), {"intermediate_size": size})
        for kept in range(1, count + 1)
        for size in sizes
    ]


def predict_costs(shapes: Sequence[Shape], limits: Limits) -> dict[tuple[int, int], Cost]:
    """The cost of every shape, linear in layers and neurons, from the four with few layers and extreme neurons."""
    by_key = {shape_key(shape): shape for shape in shapes}
    most = min(2, max(count for count, _ in by_key))
    sizes = sorted({size for _, size in by_key})
    corners = list(dict.fromkeys((count, size) for count in (1, most) for size in (sizes[0], sizes[-1])))
    measured = dict(zip(corners, measure([by_key[key] for key in corners], limits), strict=True))

    def predict(count: int, size: int, index: int) -> float:
        share = (size - sizes[0]) / max(1, sizes[-1] - sizes[0])
        first, last = (
            (1 - share) * measured[layers, sizes[0]][index] + share * measured[layers, sizes[-1]][index]
            for layers in (1, most)
        )
        return first + (count - 1) * (last - first) / max(1, most - 1)

    return {key: Cost(predict(*key, 0), predict(*key, 1)) for key in by_key}


def measure(shapes: Sequence[Shape], limits: Limits) -> list[Cost]:
    """Exports students with random weights and times them in turns."""
    backend = find_format(limits.target.removesuffix("-int8"))
    quantize = "int8" if limits.target.endswith("-int8") else None
    with TemporaryDirectory() as folder:
        runs, sizes, inputs = {}, [], {}
        for index, shape in enumerate(shapes):
            model = MobileBertModel(shape.config, add_pooling_layer=False).eval()
            graph = Path(folder) / str(index) / Path(backend.FILES[quantize]).name
            graph.parent.mkdir()
            backend.write(prepare_for_export(model), TASKS["Model"], graph, quantize, [])
            # OpenVINO keeps the weights in another file.
            sizes.append(sum(file.stat().st_size for file in graph.parent.iterdir()) / 1e6)
            length = min(LENGTH, shape.config.max_position_embeddings)
            values = {name: value.numpy() for name, value in sample_inputs(model, 1, length).items()}
            run = backend.load(graph, TASKS["Model"], limits.threads)
            runs[str(index)], inputs[str(index)] = run, values
        calls = {name: (lambda name=name: runs[name](inputs[name])) for name in runs}
        times = time_interleaved(calls, TIMED_SECONDS)
    return [Cost(statistics.median(times[str(index)]), size) for index, size in enumerate(sizes)]


def candidate_rows(chosen: Candidate, candidates: Sequence[Candidate], limits: Limits) -> list[list[str]]:
    """A table of the candidates, the best first; the chosen one is marked."""
    rows = [["", "layers", "neurons", "parameters", f"ms, {limits.target}", "MB", "cosine before training"]]
    for candidate in candidates:
        with torch.device("meta"):
            model = MobileBertModel(candidate.shape.config, add_pooling_layer=False)
        rows.append(
            [
                "*" if candidate is chosen else "",
                ",".join(map(str, candidate.shape.mapping)),
                str(candidate.shape.config.intermediate_size),
                f"{count_parameters(model) / 1e6:.1f}M",
                f"{candidate.cost.milliseconds:.1f}",
                f"{candidate.cost.megabytes:.1f}",
                f"{candidate.similarity:.3f}",
            ]
        )
    return rows
