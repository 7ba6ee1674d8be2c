"""What a training step of distillation costs, against the plain way, on the full-size pair with random weights.

    python benchmarks/training_steps.py              # time and memory on this machine's CPU, about 15 minutes
    python benchmarks/training_steps.py gpu          # time, memory and FLOPs utilisation on a CUDA device

The plain way runs both networks in full with `output_hidden_states` and eager attention, computes all layers' losses
and multiplies each by whether it counts in the stage, computes masked-LM logits at all positions, and gives everything
a gradient. A step is the forward pass of both networks, the losses, and the backward pass; the optimizer is not in it.

All ways take turns in one process, so a noisy machine slows all: `hard` and `soft` are the engine with that freezing
and a float32 teacher, `bfloat16` is soft freezing with a bfloat16 teacher. Memory is the high-water mark of a process
of its own. That both ways compute the same is measured with gelu in float32 and with relu in float64: in float32,
rounding moves a few of the millions of inputs of a relu across zero, where its gradient jumps.
On a GPU the plain way has a bfloat16 teacher, too, and both run under autocast. Results go to
benchmarks/training_steps/results.json and gpu.json.
"""

import copy
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mobilebert_hf import IBBertConfig, IBBertForPreTraining, MobileBertConfig, MobileBertForPreTraining
from mobilebert_hf.distillation import PAPER, DistillationArguments, DistillationTrainer, Stage
from mobilebert_hf.distillation.costs import step_flops
from mobilebert_hf.distillation.losses import LAYER_NORM_EPSILON
from mobilebert_hf.distillation.networks import encoder_inputs
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import describe_device, describe_machine, process_memory
from mobilebert_hf.tables import terminal_table
from mobilebert_hf.training import parameter_groups

RESULTS = Path(__file__).parent / "training_steps" / "results.json"
GPU_RESULTS = RESULTS.with_name("gpu.json")
SHAPES = {"8 x 128": (8, 128), "2 x 512": (2, 512)}
MASKED_SHARE = 0.15
# Transfer of the first layer, of a middle one and of the last, and distillation.
GPU_STAGES = (0, 11, 23, 24)
# Dense bfloat16 FLOP/s by the makers' data sheets.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}

app = typer.Typer(add_completion=False, invoke_without_command=True)


class Pair:
    """Student and teacher with random weights, a batch of full-length rows, and the two ways to take a step."""

    def __init__(
        self,
        shape: tuple[int, int],
        freezing: str = "hard",
        teacher_dtype: str = "float32",
        compiled: bool = False,
        **sizes: Any,
    ):
        torch.manual_seed(0)
        with torch.device(torch.accelerator.current_accelerator() or "cpu"):
            teacher = IBBertForPreTraining(IBBertConfig.from_preset("ib-bert-large", **sizes))
            student = MobileBertForPreTraining(
                MobileBertConfig.from_preset("mobilebert", attention_probs_dropout_prob=0.0, **sizes)
            )
        self.student, self.teacher = student, teacher
        self.teacher_dtype, self.compiled = teacher_dtype, compiled
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = self.build_trainer(freezing)
        self.batch = self._make_batch(*shape)

    def build_trainer(self, freezing: str) -> DistillationTrainer:
        """The engine, for a strategy with stages of one step."""
        arguments = DistillationArguments(
            self.folder.name,
            **{**PAPER, "transfer_steps": self.student.config.num_hidden_layers, "distillation_steps": 1},
            freezing=freezing,
            teacher_dtype=self.teacher_dtype,
            torch_compile=self.compiled,
        )
        return DistillationTrainer(self.student, self.teacher, arguments)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """A stage a layer, then distillation, each of one step."""
        return self.trainer.strategy.stages

    def _make_batch(self, rows: int, length: int) -> dict[str, Tensor]:
        ids = torch.randint(1000, self.student.config.vocab_size, (rows, length))
        masked = torch.rand(rows, length) < MASKED_SHARE
        batch = {
            "input_ids": ids.masked_fill(masked, 103),
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": (torch.arange(length) > length // 2).long().expand(rows, -1),
            "labels": ids.masked_fill(~masked, -100),
            "next_sentence_label": torch.arange(rows) % 2,
        }
        return {name: value.to(self.trainer.args.device) for name, value in batch.items()}

    def learning(self, stage: Stage) -> list[str]:
        """The names of the parameters that learn in a stage."""
        names = {id(parameter): name for name, parameter in self.student.named_parameters()}
        groups = parameter_groups(self.student, weight_decay=0.0, trust_ratio=False)
        return [names[id(p)] for group in groups if stage.lr_scales[group["name"]] > 0 for p in group["params"]]

    def ours(self, index: int) -> Callable[[], Tensor]:
        """The engine's step of a stage, ready to be taken: the loss, and gradients of what learns."""
        self.student.set_attn_implementation("sdpa")
        self.teacher.set_attn_implementation("sdpa")
        self.trainer.state.global_step = index
        learning = set(self.learning(self.stages[index]))
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(name in learning)
        return partial(take_step, partial(self.trainer.compute_loss, self.student, self.batch))

    def plain(self, index: int) -> Callable[[], Tensor]:
        """The plain way's step of the same stage: the same loss, and gradients of everything."""
        self.student.set_attn_implementation("eager")
        self.teacher.set_attn_implementation("eager")
        self.student.requires_grad_(True)
        return partial(take_step, partial(plain_loss, self.student, self.teacher, self.batch, self.stages[index]))

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the last step, which are taken off the student."""
        gradients = {name: p.grad for name, p in self.student.named_parameters() if p.grad is not None}
        self.student.zero_grad(set_to_none=True)
        return gradients


def take_step(compute_loss: Callable[[], Tensor]) -> Tensor:
    """Forward and backward."""
    loss = compute_loss()
    loss.backward()
    return loss.detach()


def plain_loss(
    student: MobileBertForPreTraining, teacher: MobileBertForPreTraining, batch: dict[str, Tensor], stage: Stage
) -> Tensor:
    """All losses of a step, each multiplied by 0 or 1, with the paper's weights."""
    options = {**encoder_inputs(batch), "output_hidden_states": True, "output_attentions": True}
    ours = student(**options)
    with torch.no_grad():
        theirs = teacher(**options)
    layers = student.config.num_hidden_layers
    loss = torch.zeros((), device=batch["input_ids"].device)
    for layer in range(layers):
        features, target = ours.hidden_states[layer + 1], theirs.hidden_states[layer + 1]
        width = features.shape[-1:]
        normalized = F.layer_norm(features, width, eps=LAYER_NORM_EPSILON)
        maps = F.mse_loss(normalized, F.layer_norm(target, width, eps=LAYER_NORM_EPSILON))
        means = F.mse_loss(features.mean(-1), target.mean(-1))
        variances = F.l1_loss(features.var(-1, correction=0), target.var(-1, correction=0))
        attention = F.kl_div(ours.attentions[layer].log(), theirs.attentions[layer], reduction="none").sum(-1).mean()
        counts = float(layer in stage.transfer_layers)
        loss = loss + counts * (100 * maps + 5000 * means + 5 * variances + attention) / layers
    labels = batch["labels"]
    hard = F.cross_entropy(ours.prediction_logits.flatten(0, 1), labels.flatten())
    divergence = F.kl_div(
        ours.prediction_logits.log_softmax(-1),
        theirs.prediction_logits.log_softmax(-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    soft = (divergence * (labels != -100)).sum() / (labels != -100).sum()
    sentences = F.cross_entropy(ours.seq_relationship_logits, batch["next_sentence_label"])
    return loss + float(stage.use_distillation_loss) * (0.5 * hard + 0.5 * soft + sentences)


def seconds(step: Callable[[], Tensor]) -> float:
    """How long a step takes."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def gradient_error(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> float:
    """The largest difference of an entry, relative to the parameter's largest entry.

    Entries that cancel out, such as a key bias', are compared with a thousandth of the largest entry of all.
    """
    largest = max(gradient.abs().max().item() for gradient in plain.values())
    return max(
        ((gradient - plain[name]).abs().max() / max(plain[name].abs().max().item(), 1e-3 * largest)).item()
        for name, gradient in ours.items()
    )


def time_stages(shape: tuple[int, int], stages: Sequence[int], repeats: int, **sizes: Any) -> list[dict[str, Any]]:
    """A row a stage: medians of the seconds of each way."""
    pair = Pair(shape, **sizes)
    trainers = {freezing: pair.build_trainer(freezing) for freezing in ("hard", "soft")}
    pair.teacher, pair.teacher_dtype = copy.deepcopy(pair.teacher), "bfloat16"
    trainers["bfloat16"] = pair.build_trainer("soft")
    pair.teacher = trainers["hard"].teacher.model
    for way in ("plain", "ours"):  # the first steps allocate memory
        getattr(pair, way)(len(pair.stages) - 1)()
        pair.gradients()
    rows = []
    for index in track(stages, description=f"steps of {shape[0]} x {shape[1]}"):
        times: dict[str, list[float]] = {"plain": [], **{way: [] for way in trainers}}
        for _ in range(repeats):
            times["plain"].append(seconds(pair.plain(index)))
            pair.gradients()
            for way, trainer in trainers.items():
                pair.trainer = trainer
                times[way].append(seconds(pair.ours(index)))
                pair.gradients()
        medians = {f"{way}_seconds": statistics.median(values) for way, values in times.items()}
        rows.append({"stage": pair.stages[index].name, **medians})
    return rows


def compare(**sizes: Any) -> list[dict[str, Any]]:
    """How far losses and gradients of both ways are apart, where rounding cannot make a gradient jump."""
    rows = []
    for dtype, activation in (("float32", "gelu"), ("float64", "relu")):
        pair = Pair((2, 128), teacher_dtype=dtype, hidden_act=activation, **sizes)
        pair.student.to(getattr(torch, dtype))
        last = len(pair.stages) - 1
        for index in track((0, last // 2, last - 1, last), description=f"{dtype} {activation}"):
            plain_value, plain_gradients = pair.plain(index)(), pair.gradients()
            value, gradients = pair.ours(index)(), pair.gradients()
            rows.append(
                {
                    "dtype": dtype,
                    "activation": activation,
                    "stage": pair.stages[index].name,
                    "loss_error": (abs(value - plain_value) / plain_value).item(),
                    "gradient_error": gradient_error(gradients, plain_gradients),
                }
            )
    return rows


def peak_memory(shape: str, way: str, index: int, teacher_dtype: str = "float32") -> dict[str, int]:
    """Bytes of memory of a step in a process of its own: above the loaded networks, and in all."""
    command = [sys.executable, __file__, "memory", shape, way, str(index), teacher_dtype]
    # So that glibc gives back what is freed, and the mark shows what was in use and not how it was fragmented.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(output.stdout.splitlines()[-1])


@app.command(hidden=True)
def memory(shape: str, way: str, index: int, teacher_dtype: str) -> None:
    """Prints the memory of one step as JSON (Linux)."""
    pair = Pair(SHAPES[shape], teacher_dtype=teacher_dtype)
    before = process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    getattr(pair, way)(index)()
    peak = process_memory("VmHWM")
    print(json.dumps({"above_weights": peak - before, "total": peak}))


def measure_memories(shape: str) -> dict[str, dict[str, int]]:
    """The memory of the steps that take the most of it."""
    return {
        "plain": peak_memory(shape, "plain", 24),
        "ours_transfer": peak_memory(shape, "ours", 23),
        "ours_distillation": peak_memory(shape, "ours", 24),
        "ours_distillation_bfloat16": peak_memory(shape, "ours", 24, "bfloat16"),
    }


def summarize(rows: list[dict[str, Any]], memories: dict[str, dict[str, int]]) -> dict[str, float]:
    """The ratios to the plain way; transfer is the mean over all transfer stages."""
    transfer, final = rows[:-1], rows[-1]
    plain = statistics.mean(row["plain_seconds"] for row in transfer)
    return {
        "transfer_hard": statistics.mean(row["hard_seconds"] for row in transfer) / plain,
        "transfer_soft": statistics.mean(row["soft_seconds"] for row in transfer) / plain,
        "transfer_bfloat16": statistics.mean(row["bfloat16_seconds"] for row in transfer) / plain,
        "distillation": statistics.median((final["hard_seconds"], final["soft_seconds"])) / final["plain_seconds"],
        "distillation_bfloat16": final["bfloat16_seconds"] / final["plain_seconds"],
        **{
            f"{prefix}memory_{step}": memories[f"ours_{step}"][part] / memories["plain"][part]
            for prefix, part in (("", "above_weights"), ("total_", "total"))
            for step in ("transfer", "distillation", "distillation_bfloat16")
        },
    }


@app.callback()
def cpu(
    context: typer.Context,
    repeats: Annotated[int, typer.Option(help="Steps of each way in each stage.")] = 1,
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = RESULTS,
) -> None:
    """Times the steps of all stages on the CPU, and measures their memory."""
    if context.invoked_subcommand is not None:
        return
    results: dict[str, Any] = {"machine": describe_machine(), "agreement": compare(), "shapes": {}}
    for shape in SHAPES:
        rows = time_stages(SHAPES[shape], range(25), repeats)
        memories = measure_memories(shape)
        results["shapes"][shape] = {"summary": summarize(rows, memories), "memory_bytes": memories, "stages": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output, json.dumps(results, indent=1) + "\n")
    Console().print(terminal_table(cells(results), "Training step, ours against the plain way"))


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The summary as rows of text, the first one the heading."""
    lines = (
        ("time of a step, mean of the 24 transfer stages, hard freezing", "transfer_hard"),
        ("the same, soft freezing", "transfer_soft"),
        ("the same, soft freezing, bfloat16 teacher", "transfer_bfloat16"),
        ("time of a distillation step", "distillation"),
        ("the same, bfloat16 teacher", "distillation_bfloat16"),
        ("peak memory above the networks, transfer of the last layer", "memory_transfer"),
        ("peak memory above the networks, distillation", "memory_distillation"),
        ("peak memory of the process, transfer of the last layer", "total_memory_transfer"),
        ("peak memory of the process, distillation", "total_memory_distillation"),
        ("the same, bfloat16 teacher", "total_memory_distillation_bfloat16"),
    )
    shapes = results["shapes"]
    rows = [[text, *(f"{shapes[shape]['summary'][key]:.2f}" for shape in shapes)] for text, key in lines]
    return [["ours / plain", *shapes], *rows]


@app.command()
def gpu(
    rows: Annotated[int, typer.Option(help="Sequences in a batch.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 512,
    repeats: Annotated[int, typer.Option(help="Steps of each way in each stage.")] = 20,
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = GPU_RESULTS,
) -> None:
    """Times some stages' steps on a CUDA device, in bfloat16: the plain way, the engine, and the engine compiled."""
    name = describe_device(torch.device("cuda"))
    peak = next((flops for key, flops in PEAKS.items() if key in name), None)
    machine = {**describe_machine(), "gpu": name, "peak_flops": peak}
    results: dict[str, Any] = {"machine": machine, "batch": [rows, length], "stages": {}}
    output.parent.mkdir(parents=True, exist_ok=True)
    for compiled, ways in ((False, ("plain", "ours")), (True, ("ours",))):
        pair = Pair((rows, length), "soft", "bfloat16", compiled=compiled)
        predictions = int((pair.batch["labels"] != -100).sum())
        for index in track(GPU_STAGES, description="compiled" if compiled else "not compiled"):
            stage = pair.stages[index]
            flops = step_flops(stage, pair.student, pair.teacher, rows * length, length, predictions)
            costs = results["stages"].setdefault(stage.name, {"flops": sum(flops)})
            for way in ways:
                costs["compiled" if compiled else way] = cuda_cost(pair, way, index, repeats)
            atomic_write_text(output, json.dumps(results, indent=1) + "\n")
        del pair
    Console().print(terminal_table(gpu_cells(results), f"Training steps on {name}"))


def cuda_cost(pair: Pair, way: str, index: int, repeats: int) -> dict[str, float]:
    """The median seconds of a step, after a few that warm up and compile, and the most memory in use, in bytes."""
    times = []
    step = getattr(pair, way)(index)
    for repeat in range(repeats + 3):
        torch.cuda.synchronize()
        if repeat == 3:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        pair.gradients()
    return {"seconds": statistics.median(times[3:]), "bytes": torch.cuda.max_memory_allocated()}


def gpu_cells(results: dict[str, Any]) -> list[list[str]]:
    """The results as rows of text, the first one the heading."""
    tokens, peak = math.prod(results["batch"]), results["machine"]["peak_flops"]
    rows = [
        ["tokens/s", "the plain way", "ours", "ours, `torch_compile`", "memory, ours / plain", "share of the peak"]
    ]
    for name, stage in results["stages"].items():
        plain, ours, compiled = (stage[way] for way in ("plain", "ours", "compiled"))
        speeds = [
            f"{tokens / cost['seconds']:,.0f} ({plain['seconds'] / cost['seconds']:.1f}x)" for cost in (ours, compiled)
        ]
        memory = f"{compiled['bytes'] / plain['bytes']:.2f}"
        share = f"{stage['flops'] / compiled['seconds'] / peak:.0%}" if peak else ""
        rows.append([name, f"{tokens / plain['seconds']:,.0f}", *speeds, memory, share])
    return rows


if __name__ == "__main__":
    app()
