"""What preparing a corpus costs, how fast batches are made, and how much of them is padding.

    python benchmarks/data.py corpus.txt more-text/ --tokenizer google-bert/bert-base-uncased

1. The corpus is prepared in a process of its own with an empty cache, then once more from the cache: seconds, and the
   high-water mark of the memory of the process and its children together.
2. Batches of 32 examples of up to 128 tokens are made on one core, and compared with what the laptop recipes consume:
   real training steps of their networks on all cores.
3. The share of padding in batches, in random order and grouped by length.

Results go to benchmarks/data/results.json.
"""

import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase

from mobilebert_hf.data import (
    LengthGroupedBatches,
    PretrainingCollator,
    PretrainingDataArguments,
    example_lengths,
    load_tokenizer,
    prepare_pretraining_data,
)
from mobilebert_hf.distillation import DistillationTrainer, initialize_from_teacher
from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from mobilebert_hf.pretraining import ModelArguments
from mobilebert_hf.pretraining.checkpoints import write_aside
from mobilebert_hf.pretraining.run import RECIPE_ARGUMENTS as PRETRAINING
from mobilebert_hf.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "data" / "results.json"
BATCH = 32

app = typer.Typer(add_completion=False)


class PeakMemory:
    """The largest memory of this process and its children, sampled (Linux)."""

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
        while not self._done.wait(0.1):
            processes = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
            self.bytes = max(self.bytes, sum(map(_proportional_bytes, processes)))


def _proportional_bytes(process: str) -> int:
    """Memory of a process, in which a page that n processes share counts as 1/n."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@app.command("prepare", hidden=True)
def prepare_once(corpus: list[str], tokenizer: str, cache: str) -> None:
    """Prepares a corpus and prints seconds and bytes as JSON."""
    loaded = load_tokenizer(tokenizer)
    begin = time.perf_counter()
    with PeakMemory() as memory:
        data = prepare_pretraining_data(PretrainingDataArguments(corpus, cache_dir=cache), loaded)
    taken = time.perf_counter() - begin
    print(json.dumps({"seconds": taken, "peak_bytes": memory.bytes, "examples": len(data["train"])}))


def prepare_in_process(corpus: list[str], tokenizer: str, folder: str) -> dict[str, Any]:
    """The same in a process of its own, whose caches are in a folder."""
    environment = {**os.environ, "HF_HOME": f"{folder}/home", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, __file__, "prepare", *corpus, tokenizer, f"{folder}/cache"]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


def batches_per_second(examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, batches: int = 300) -> float:
    """Examples/s of a data loader in this process, on one core."""
    torch.set_num_threads(1)
    order = LengthGroupedBatches(example_lengths(examples), BATCH)
    loader = DataLoader(examples, batch_sampler=order, collate_fn=PretrainingCollator(tokenizer))
    iterator = iter(loader)
    next(iterator)
    begin = time.perf_counter()
    for _ in itertools.islice(iterator, batches):
        pass
    return batches * BATCH / (time.perf_counter() - begin)


def consumption(examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Examples/s that the laptop recipes' networks train on: the teacher, each stage's mean, and distillation."""
    torch.set_num_threads(os.cpu_count() or 1)
    model, *_ = parse_recipe(PRETRAINING, ["--config", str(ROOT / "recipes" / "pretrain_teacher.yaml")])
    student, _, training = parse_recipe(DISTILLATION, ["--config", str(ROOT / "recipes" / "distil_student.yaml")])
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    teacher = AutoModelForPreTraining.from_config(model.build_config(**sizes))
    config = ModelArguments(student.preset, student.config_overrides).build_config(
        **sizes,
        **{name: getattr(teacher.config, name) for name in ("num_hidden_layers", "hidden_size", "embedding_size")},
    )
    network = AutoModelForPreTraining.from_config(config)
    initialize_from_teacher(network, teacher)
    order = LengthGroupedBatches(example_lengths(examples), training.per_device_train_batch_size)
    collator = PretrainingCollator(tokenizer)
    batches = [collator([examples[i] for i in batch]) for batch in itertools.islice(order, 4)]
    with tempfile.TemporaryDirectory() as folder:
        training.output_dir = folder
        trainer = DistillationTrainer(network, teacher, training)
    rates = {}
    boundaries = trainer.strategy.boundaries
    for stage, step in track(
        list(zip(trainer.strategy.stages, boundaries, strict=True)), description="training steps"
    ):
        trainer.state.global_step = step
        times = []
        for batch in batches:
            begin = time.perf_counter()
            trainer.compute_loss(network, batch).backward()
            times.append(time.perf_counter() - begin)
            network.zero_grad()
        rates[stage.name] = training.per_device_train_batch_size / statistics.median(times)
    return rates


def padding_shares(lengths: np.ndarray) -> dict[str, float]:
    """Padding in an epoch's batches, as a share of all positions."""
    random = np.random.default_rng(0).permutation(lengths)[: len(lengths) // BATCH * BATCH].reshape(-1, BATCH)
    grouped = np.array([lengths[batch] for batch in LengthGroupedBatches(lengths, BATCH)])
    return {
        name: float(1 - batches.sum() / (batches.max(1) * BATCH).sum())
        for name, batches in (("random", random), ("grouped", grouped))
    }


@app.command("measure")
def measure(
    corpus: Annotated[list[str], typer.Argument(help="Files, folders, globs, or Hub data sets.")],
    tokenizer: Annotated[str, typer.Option(help="Hub id, folder or vocab.txt.")],
    output: Annotated[Path, typer.Option(help="JSON file for the results.")] = RESULTS,
) -> None:
    """Measures all three and writes them down."""
    with tempfile.TemporaryDirectory() as folder:
        first = prepare_in_process(corpus, tokenizer, folder)
        again = prepare_in_process(corpus, tokenizer, folder)
        loaded = load_tokenizer(tokenizer)
        data = prepare_pretraining_data(PretrainingDataArguments(corpus, cache_dir=f"{folder}/cache"), loaded)
        documents = sum(Path(file["filename"]).stat().st_size for file in data["train"].cache_files)
        made = batches_per_second(data["train"], loaded)
        consumed = consumption(data["train"], loaded)
        padding = padding_shares(example_lengths(data["train"]))
    results = {
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__},
        "preparation": {**first, "seconds_again": again["seconds"], "prepared_bytes": documents},
        "examples_per_second_made_on_one_core": made,
        "examples_per_second_consumed": consumed,
        "times_faster_than_the_fastest_stage": made / max(consumed.values()),
        "times_faster_than_distillation": made / consumed["distillation"],
        "padding": padding,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_aside(output, json.dumps(results, indent=1) + "\n")
    table = Table("", "measured", title="Data")
    for name, value in results.items():
        table.add_row(name, json.dumps(value))
    Console().print(table)


if __name__ == "__main__":
    app()
