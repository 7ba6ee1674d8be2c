"""What preparing a corpus costs, how fast batches are made, and how much of them is padding.

    python benchmarks/data.py corpus.txt more-text/ --tokenizer google-bert/bert-base-uncased

1. The corpus is prepared in a process of its own with an empty cache, then in another one from the cache: seconds, and
   the largest resident memory of the process and its descendants together. Pages that they share count more than once.
2. Batches of 32 examples of up to 128 tokens are made on one core, and compared with what the laptop recipes consume:
   a short run of their trainer and networks, with random weights, on all cores. A step counts from its batch being
   there to the optimizer's step being taken.
3. The share of padding in batches, in random order and grouped by length.

Results go to benchmarks/data/results.json.
"""

import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import psutil
import pyarrow.compute
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase, TrainerCallback

from mobilebert_hf.data import (
    LengthGroupedBatches,
    PretrainingCollator,
    PretrainingDataArguments,
    example_lengths,
    load_documents,
    load_tokenizer,
    prepare_pretraining_data,
)
from mobilebert_hf.distillation import DistillationTrainer, ModelArguments, initialize_from_teacher
from mobilebert_hf.distillation.initialization import MATCHED_FIELDS
from mobilebert_hf.distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.progress import show_progress
from mobilebert_hf.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "data" / "results.json"
BATCH = 32
STEPS = 5  # in each stage; the first one, which allocates memory, is left out

app = typer.Typer(add_completion=False)


class PeakMemory:
    """The largest resident memory of this process and its descendants, sampled ten times a second."""

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        root = psutil.Process()
        while not self._done.wait(0.1):
            self.bytes = max(self.bytes, sum(map(_resident_bytes, [root, *root.children(recursive=True)])))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:  # it has ended
        return 0


def prepare(corpus: list[str], tokenizer: str, cache: str) -> dict[str, Any]:
    """Seconds, bytes of memory and examples of preparing a corpus."""
    loaded = load_tokenizer(tokenizer)
    begin = time.perf_counter()
    with PeakMemory() as memory:
        data = prepare_pretraining_data(PretrainingDataArguments(corpus, cache_dir=cache), loaded)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_bytes": memory.bytes, "examples": len(data["train"])}


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of this module returns in a process that has run nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def text_bytes(corpus: list[str], cache: str) -> int:
    """The size of the documents in UTF-8, decompressed."""
    documents = load_documents(corpus, cache_dir=cache).with_format("arrow")
    tables = documents.iter(batch_size=1000)
    return sum(pyarrow.compute.sum(pyarrow.compute.binary_length(table["text"])).as_py() for table in tables)


def batches_per_second(examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, batches: int = 300) -> float:
    """Examples/s of a data loader in this process, on one core."""
    torch.set_num_threads(1)
    order = LengthGroupedBatches(example_lengths(examples), BATCH)
    iterator = iter(DataLoader(examples, batch_sampler=order, collate_fn=PretrainingCollator(tokenizer)))
    next(iterator)
    begin = time.perf_counter()
    made = sum(len(batch["input_ids"]) for batch in itertools.islice(iterator, batches))
    return made / (time.perf_counter() - begin)


class StepTimes(TrainerCallback):
    """Seconds of each step of a run."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._begin)


def consumption(examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Examples/s of each stage of the laptop recipes' distillation, and of the mean over the stages."""
    torch.set_num_threads(os.cpu_count() or 1)
    model, *_ = parse_recipe(PRETRAINING, ["--config", str(ROOT / "recipes" / "pretrain.yaml")])
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    teacher = AutoModelForPreTraining.from_config(model.build_config(**sizes))
    layers = teacher.config.num_hidden_layers
    with tempfile.TemporaryDirectory() as folder:
        changes = {
            "output_dir": folder,
            "transfer_steps": layers * STEPS,
            "distillation_steps": STEPS,
            "eval_strategy": "no",
            "save_strategy": "no",
        }
        student, _, training = parse_recipe(
            DISTILLATION,
            [
                *("--config", str(ROOT / "recipes" / "distill_ib_bert.yaml")),
                *(part for name, value in changes.items() for part in (f"--{name}", str(value))),
            ],
        )
        shared = {name: getattr(teacher.config, name) for name in MATCHED_FIELDS}
        config = ModelArguments(student.preset, student.config_overrides).build_config(**{**shared, **sizes})
        network = AutoModelForPreTraining.from_config(config)
        initialize_from_teacher(network, teacher)
        times = StepTimes()
        trainer = DistillationTrainer(
            network,
            teacher,
            training,
            train_dataset=examples,
            data_collator=PretrainingCollator(tokenizer),
            callbacks=[times],
        )
        show_progress(trainer, "training steps", tuple(stage.name for stage in trainer.strategy.stages))
        trainer.train()
    stages = np.array(times.seconds).reshape(-1, STEPS)
    medians = np.median(stages[:, 1:], axis=1).tolist()
    rows = training.per_device_train_batch_size
    rates = {stage.name: rows / taken for stage, taken in zip(trainer.strategy.stages, medians, strict=True)}
    return {**rates, "mean": rows / statistics.mean(medians)}


def padding_shares(lengths: np.ndarray) -> dict[str, float]:
    """Padding in an epoch's batches, as a share of all positions."""
    random = np.random.default_rng(0).permutation(lengths)[: len(lengths) // BATCH * BATCH].reshape(-1, BATCH)
    grouped = np.array([lengths[batch] for batch in LengthGroupedBatches(lengths, BATCH)])
    return {
        name: float(1 - batches.sum() / (batches.max(1) * BATCH).sum())
        for name, batches in (("random", random), ("grouped", grouped))
    }


@app.command()
def measure(
    corpus: Annotated[list[str], typer.Argument(help="Files, folders, globs, or Hub data sets.")],
    tokenizer: Annotated[str, typer.Option(help="Hub id, folder or vocab.txt.")],
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = RESULTS,
) -> None:
    """Measures all three and writes them down."""
    with tempfile.TemporaryDirectory() as folder:
        first = in_new_process(prepare, corpus, tokenizer, folder)
        again = in_new_process(prepare, corpus, tokenizer, folder)
        loaded = load_tokenizer(tokenizer)
        examples = prepare_pretraining_data(PretrainingDataArguments(corpus, cache_dir=folder), loaded)["train"]
        size = text_bytes(corpus, folder)
        made = batches_per_second(examples, loaded)
        consumed = consumption(examples, loaded)
        padding = padding_shares(example_lengths(examples))
    results = {
        "machine": describe_machine(),
        "preparation": {**first, "seconds_again": again["seconds"], "text_bytes": size},
        "examples_per_second_made_on_one_core": made,
        "examples_per_second_consumed": consumed,
        "made_over_consumed": {name: made / rate for name, rate in consumed.items()},
        "padding": padding,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output, json.dumps(results, indent=1) + "\n")
    Console().print(build_table(results))


def markdown(results: dict[str, Any]) -> str:
    """The results as a sentence for a README."""
    prepared, padding = results["preparation"], results["padding"]
    made, least = results["examples_per_second_made_on_one_core"], min(results["made_over_consumed"].values())
    return (
        f"{prepared['text_bytes'] / 1e6:.0f} MB of text are prepared once, in {prepared['seconds']:.0f} s with "
        f"{prepared['peak_bytes'] / 2**30:.1f} GiB of memory on {results['machine']['cores']} cores, and found again "
        f"in {prepared['seconds_again']:.1f} s. Batches are made on one core at {made:,.0f} examples/s, {least:.0f} "
        "times what the fastest stage of the laptop recipe consumes. Grouping by length takes padding from "
        f"{padding['random']:.1%} of a batch to {padding['grouped']:.1%}."
    )


def build_table(results: dict[str, Any]) -> Table:
    """The results for a terminal."""
    prepared, consumed = results["preparation"], results["examples_per_second_consumed"]
    factors, padding = results["made_over_consumed"], results["padding"]
    table = Table("", "measured", title="Data")
    table.add_row("text, MB", f"{prepared['text_bytes'] / 1e6:.1f}")
    table.add_row("preparing it, s", f"{prepared['seconds']:.1f}")
    table.add_row("the second time, s", f"{prepared['seconds_again']:.1f}")
    table.add_row("peak memory, GiB", f"{prepared['peak_bytes'] / 2**30:.2f}")
    table.add_row("training examples", f"{prepared['examples']:,}")
    table.add_row("made on one core, examples/s", f"{results['examples_per_second_made_on_one_core']:,.0f}")
    for name, rate in consumed.items():
        table.add_row(f"consumed on all cores, {name}, examples/s", f"{rate:.1f} ({factors[name]:.0f} times fewer)")
    table.add_row("padding, random order", f"{padding['random']:.1%}")
    table.add_row("padding, grouped by length", f"{padding['grouped']:.1%}")
    return table


if __name__ == "__main__":
    app()
