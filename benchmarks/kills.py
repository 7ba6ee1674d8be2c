"""Kills the commands at random moments, and compares what the same command then ends with to an uninterrupted run.

    python benchmarks/kills.py runs/kills --kills 300 --seed 0

Each kill is a SIGKILL to the command and everything that it started, at a moment that is uniform over the time of the
uninterrupted run. Then the same command runs to its end, and the digests of its result must be those of the
uninterrupted run. Kills that are in `runs/kills/results.jsonl` are not repeated. A summary goes to
benchmarks/kills/results.json. Exit code 1: some result differs.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import BertConfig, BertForMaskedLM

from mobilebert_hf import IBBertConfig, IBBertForPreTraining
from mobilebert_hf.data import load_tokenizer, train_wordpiece
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.tables import terminal_table

IB_BERT = Path(__file__).parents[1] / "recipes" / "distill_ib_bert.yaml"
RESULTS = Path(__file__).parent / "kills" / "results.json"
COMMAND = str(Path(sys.executable).with_name("mobilebert-hf"))
WORDS = "the river mountain engine theory cell market planet memory atom begins carries explains slowly often"
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
STUDENT = {"intra_bottleneck_size": 16, "intermediate_size": 32, "embedding_size": 16, "num_attention_heads": 2}
TRAINING = {
    "per_device_train_batch_size": 8,
    "save_steps": 2,
    "logging_steps": 1,
    "use_cpu": "true",
    "report_to": "none",
    "disable_tqdm": "true",
}
PRETRAINING = {"max_seq_length": 24, "validation_fraction": 0.1, **TRAINING}


@dataclass(frozen=True)
class Case:
    """A command, and which files are its result.

    Args:
        words: The command, with `{output}` for its output folder.
        results: Patterns of the files whose bytes must be equal.
        environment: Additional variables of the environment.
    """

    words: tuple[str, ...]
    results: tuple[str, ...]
    environment: Mapping[str, str]

    def start(self, output: Path, log: Path) -> subprocess.Popen:
        """Starts the command in a process group of its own."""
        words = [word.format(output=output) for word in self.words]
        with log.open("ab") as stream:
            return subprocess.Popen(
                words, stdout=stream, stderr=stream, env={**os.environ, **self.environment}, start_new_session=True
            )

    def digests(self, output: Path) -> dict[str, str]:
        """The digests of the result's files by name."""
        files = sorted({path for pattern in self.results for path in output.glob(pattern)})
        return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def options(values: Mapping[str, Any]) -> list[str]:
    """Command-line options of these values."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def make_cases(folder: Path) -> dict[str, Case]:
    """Writes corpus, tokenizer, networks and task data, and returns the commands on them."""
    corpus, tokenizer = folder / "corpus.txt", folder / "tokenizer"
    if not (folder / "complete").exists():
        _make_inputs(folder, corpus, tokenizer)
        (folder / "complete").touch()
    cached = {"cache_dir": folder / "cache"}
    shape = json.dumps(STUDENT)
    runs = {
        "pretrain": ["pretrain", *options({"tokenizer": tokenizer, "preset": "mobilebert-tiny", "max_steps": 8})],
        "distill IB-BERT": [
            "distill",
            "--config",
            "recipes/distill_ib_bert.yaml",
            "--teacher",
            str(folder / "teacher"),
        ],
        "distill any encoder": ["distill", "--teacher", str(folder / "encoder")],
        "fine-tune": ["finetune", *options({"task": "rte", "model": folder / "encoder", "data": folder / "glue"})],
    }
    runs["pretrain"] += ["--corpus", str(corpus), *options({**PRETRAINING, **cached, "config_overrides": shape})]
    steps = {"transfer_steps": 6, "distillation_steps": 6, "config_overrides": shape}
    for name in ("distill IB-BERT", "distill any encoder"):
        runs[name] += ["--processes", "1", "--corpus", str(corpus), *options({**PRETRAINING, **cached, **steps})]
    early = {"early_stopping": 2, "num_train_epochs": 6, "max_seq_length": 24, "learning_rate": 1e-3, "holdout": 0.2}
    runs["fine-tune"] += options({**TRAINING, **early})
    cases = {
        name: Case((COMMAND, *words, "--output_dir", "{output}"), ("**/model.safetensors",), {})
        for name, words in runs.items()
    }
    vocabulary = (COMMAND, "vocabulary", str(corpus), "--size", "120", "--output", "{output}")
    cases["vocabulary"] = Case(vocabulary, ("vocab.txt", "tokenizer.json"), {})
    return cases


def _make_inputs(folder: Path, corpus: Path, tokenizer: Path) -> None:
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS.split(), k=rng.randint(4, 12))).capitalize() + "."

    folder.mkdir(parents=True, exist_ok=True)
    corpus.write_text("\n\n".join("\n".join(sentence() for _ in range(4)) for _ in range(60)) + "\n")
    train_wordpiece([str(corpus)], 150, tokenizer)
    loaded = load_tokenizer(tokenizer)
    torch.manual_seed(0)
    teacher = IBBertConfig(vocab_size=len(loaded), intra_bottleneck_size=64, embedding_size=16, **SIZES)
    encoder = BertConfig(vocab_size=len(loaded), num_attention_heads=2, **SIZES)
    for name, network in (("teacher", IBBertForPreTraining(teacher)), ("encoder", BertForMaskedLM(encoder))):
        network.save_pretrained(folder / name)
        loaded.save_pretrained(folder / name)
    (folder / "glue" / "RTE").mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{sentence()}\t{sentence()}\t{rng.randint(0, 1)}\n" for _ in range(60))
    (folder / "glue" / "RTE" / "train.tsv").write_text("sentence1\tsentence2\tlabel\n" + rows)


def run_whole(case: Case, folder: Path) -> dict[str, Any]:
    """The seconds and the digests of an uninterrupted run."""
    output, started = folder / "whole", time.monotonic()
    shutil.rmtree(output, ignore_errors=True)
    code = case.start(output, folder / "whole.log").wait()
    if code:
        raise RuntimeError(f"The uninterrupted run ended with exit code {code}: see {folder / 'whole.log'}.")
    return {"seconds": time.monotonic() - started, "digests": case.digests(output)}


def kill_once(case: Case, folder: Path, whole: Mapping[str, Any], moment: float) -> dict[str, Any]:
    """Kills a run at a moment in seconds, runs the command again, and compares the results."""
    output, log = folder / "killed", folder / "killed.log"
    shutil.rmtree(output, ignore_errors=True)
    log.unlink(missing_ok=True)
    process = case.start(output, log)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    was_killed = process.wait() == -signal.SIGKILL
    if was_killed and not any(output.glob("*")):
        shutil.rmtree(output, ignore_errors=True)
    code = case.start(output, log).wait()
    found = case.digests(output)
    different = sorted(name for name in {*found, *whole["digests"]} if found.get(name) != whole["digests"].get(name))
    return {"moment": round(moment, 2), "killed": was_killed, "exit_code": code, "different": different}


def main(
    output: Annotated[Path, typer.Argument(help="Folder for inputs, runs and results; a run in it goes on.")],
    kills: Annotated[int, typer.Option(help="Number of kills, over all commands.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Only these commands.")] = None,
) -> None:
    """Kills the commands in turn, and writes a line for each kill."""
    output = output.resolve()
    cases = {name: case for name, case in make_cases(output / "inputs").items() if only is None or name in only}
    done_file = output / "results.jsonl"
    done = [json.loads(line) for line in done_file.read_text().splitlines()] if done_file.exists() else []
    wholes: dict[str, Any] = {}
    for number in range(kills):
        name = list(cases)[number % len(cases)]
        if any((row["seed"], row["number"], row["command"]) == (seed, number, name) for row in done):
            continue
        folder = output / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        if name not in wholes:
            wholes[name] = run_whole(cases[name], folder)
        moment = random.Random(f"{seed}-{number}").random() * wholes[name]["seconds"]
        row = {"seed": seed, "number": number, "command": name}
        row |= kill_once(cases[name], folder, wholes[name], moment)
        done.append(row)
        with done_file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        Console().print(row)
    summarize(done)
    sys.exit(any(row["exit_code"] or row["different"] for row in done))


def summarize(rows: list[dict[str, Any]]) -> None:
    """Writes and prints the numbers of kills, and of those after which the result was another one, by command."""
    table = {}
    for name in dict.fromkeys(row["command"] for row in rows):
        own = [row for row in rows if row["command"] == name]
        wrong = [row["number"] for row in own if row["exit_code"] or row["different"]]
        table[name] = {"runs": len(own), "killed": sum(row["killed"] for row in own), "wrong": wrong}
    RESULTS.parent.mkdir(exist_ok=True)
    atomic_write_text(RESULTS, json.dumps({"machine": describe_machine(), "commands": table}, indent=1) + "\n")
    cells = [[name, str(row["runs"]), str(row["killed"]), str(len(row["wrong"]))] for name, row in table.items()]
    Console().print(terminal_table([["command", "runs", "killed", "other results"], *cells], "kills"))


if __name__ == "__main__":
    typer.run(main)
