"""`mobilebert-hf pretrain|distill|finetune`: the recipes, in one process or several."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

# On CPUs, one process a core with one thread each: small matmuls gain little from more threads, and more processes
# take more memory than they save time.
MAX_PROCESSES = 8
# Examples of a step, over all processes. An accelerator takes as long for a few as for many.
BATCH_SIZE, ACCELERATED_BATCH_SIZE = 64, 512
WORKERS = 4

Processes = Annotated[
    int | None, typer.Option(help="Number of processes. By default one, or one for each core without an accelerator.")
]
# `--help` is an option of these commands' own: it shows the recipe's options, too.
Help = Annotated[bool, typer.Option("--help", help="Show these options and those of the recipe, and exit.")]


def pretrain(context: typer.Context, processes: Processes = None, show_help: Help = False) -> None:
    """Pre-train a teacher, or any model of the family, from raw text.

    Takes the options of recipes/pretrain.py, such as --config FILE.yaml.
    """
    _run(context, context.args, processes, show_help)


def finetune(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option(help="Output folder for model and results.")] = None,
    processes: Annotated[
        int, typer.Option(help="Number of processes, each with batches of per_device_train_batch_size.", min=1)
    ] = 1,
    show_help: Help = False,
) -> None:
    """Fine-tune an encoder on your own labels, on SQuAD or on tasks of GLUE.

    Takes the options of recipes/finetune.py, which depend on the task: --task classify, --task squad, --task cola rte.
    """
    folder = [] if output is None else ["--output_dir", str(output)]
    _run(context, [*folder, *context.args], processes, show_help)


def distill(
    context: typer.Context,
    teacher: Annotated[
        str | None, typer.Option(help="Hub id or folder of a BERT-like encoder with its tokenizer.")
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Text files, folders, globs or Hub datasets.")] = None,
    output: Annotated[Path | None, typer.Option(help="Output folder for the student.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Planned duration, which sets the numbers of steps. 30 by default without --config and numbers of "
            "steps."
        ),
    ] = None,
    latency: Annotated[
        float | None, typer.Option(help="Choose the student's layers: at most this many ms for a text of 128 tokens.")
    ] = None,
    size_limit: Annotated[
        float | None, typer.Option(help="Choose the student's layers: at most this many MB.")
    ] = None,
    on: Annotated[
        str, typer.Option(help="What the limits are for: a format of export, with -int8 for quantized weights.")
    ] = "onnx-int8",
    threads: Annotated[int, typer.Option(help="Threads that the latency is for.", min=1)] = 2,
    processes: Processes = None,
    show_help: Help = False,
) -> None:
    """Distill a student from a BERT-like teacher.

    Settings suit this machine unless --config FILE.yaml is given. Takes the other options of recipes/distill.py, such
    as --size tiny, too.
    """
    if latency is not None or size_limit is not None:
        context.args += _choose_shape(context.args, teacher, corpus, output, latency, size_limit, on, threads)
    processes = processes or default_processes()
    given = {"teacher": teacher, "output_dir": output, "minutes": minutes}
    options = [option for name, value in given.items() if value is not None for option in (f"--{name}", str(value))]
    options += ["--corpus", *corpus] if corpus else []
    names = {argument.split("=")[0].replace("-", "_") for argument in context.args if argument.startswith("--")}
    defaults = [] if "__config" in names else machine_options(processes)
    if names & {"__transfer_steps", "__distillation_steps"}:
        defaults = defaults[2:]  # the steps count in place of the minutes
    _run(context, [*defaults, *options, *context.args], processes, show_help)


def _choose_shape(
    others: Sequence[str],
    teacher: str | None,
    corpus: Sequence[str] | None,
    output: Path | None,
    latency: float | None,
    size_limit: float | None,
    target: str,
    threads: int,
) -> list[str]:
    """The options for the best student within the limits, or for that of the run in `output`, which goes on.

    Raises:
        ValueError: Options are missing, contradict the limits, or nothing fits.
    """
    from rich.console import Console

    from mobilebert_hf.deployment.shape_search import Limits, candidate_rows, search_shape
    from mobilebert_hf.recipe import parse_mapping
    from mobilebert_hf.runs.run_folder import RECIPE, Recipe
    from mobilebert_hf.tables import terminal_table

    if refused := [option for option in ("--size", "--layers", "--config_overrides") if option in others]:
        raise ValueError(
            f"{', '.join(refused)}: --latency and --size-limit choose the student's layers. Leave one out."
        )
    if teacher is None or not corpus:
        raise ValueError("--latency and --size-limit need --teacher and --corpus on the command line.")
    if output is not None and (output / RECIPE).is_file():
        values = Recipe.read(output / RECIPE).values
        overrides = json.dumps(parse_mapping("config_overrides", values.get("config_overrides")))
        return ["--size", values["size"], "--layers", values["layers"], "--config_overrides", overrides]
    limits = Limits(latency, size_limit, target, threads)
    chosen, candidates = search_shape(teacher, corpus, limits)
    Console(stderr=True).print(terminal_table(candidate_rows(chosen, candidates, limits), "candidates"))
    return chosen.options


def _run(context: typer.Context, options: Sequence[str], processes: int | None, show_help: bool) -> None:
    """Runs the recipe of a command in this process or, with several processes, under `accelerate launch`.

    Raises:
        ValueError: The run failed in another process, which has printed the reason.
    """
    name = str(context.command.name)
    if show_help:
        typer.echo(context.get_help())
        options, processes = [*options, "--help"], 1
    processes = processes or default_processes()
    if processes == 1:
        from mobilebert_hf.launch import RECIPES, launch

        launch(*RECIPES[name], options)
        return
    if _on_cpu():
        options = ["--use_cpu", "true", *options]  # otherwise the processes do not connect, and each trains by itself
    launcher = ["accelerate.commands.launch", "--num_processes", str(processes), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    launcher += ["--multi_gpu"]  # on CPUs, too: with --cpu there would be one process
    command = [sys.executable, "-m", *launcher, "-m", "mobilebert_hf.launch", name, *options]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ValueError(f"{name} ended with exit status {code}; the reason is printed above.")


def machine_options(processes: int) -> list[str]:
    """The options of a distillation of half an hour on this machine in a number of processes."""
    on_cpu = _on_cpu()
    batch_size = BATCH_SIZE if on_cpu else ACCELERATED_BATCH_SIZE
    arguments = {
        "minutes": 30,
        "per_device_train_batch_size": max(1, batch_size // processes),
        "dataloader_num_workers": 0 if on_cpu else WORKERS,
        "use_cpu": on_cpu,
        "bf16": _multiplies_bfloat16(on_cpu),
        "logging_steps": 20,
        "save_steps": 500,
        "save_total_limit": 2,
    }
    return [option for name, value in arguments.items() for option in (f"--{name}", str(value))]


def default_processes() -> int:
    """1 with an accelerator, else one for each core."""
    return min(os.cpu_count() or 1, MAX_PROCESSES) if _on_cpu() else 1


def _on_cpu() -> bool:
    import torch

    return not torch.accelerator.is_available()


def _multiplies_bfloat16(on_cpu: bool) -> bool:
    import torch

    if on_cpu:
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
