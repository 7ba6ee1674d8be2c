"""Recipes in processes of their own: launched as a user does it, or forked from one that has everything imported."""

import contextlib
import itertools
import multiprocessing
import os
import platform
import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mobilebert_hf import IBBertConfig, IBBertForPreTraining
from mobilebert_hf.distillation import PAPER

RECIPES = Path(__file__).parents[1] / "recipes"
NETWORK = {"num_hidden_layers": 2, "hidden_size": 32, "embedding_size": 16, "max_position_embeddings": 32}
TEACHER = {**NETWORK, "intra_bottleneck_size": 64, "intermediate_size": 64}
COMMON = {
    "max_seq_length": 24,
    "validation_fraction": 0.1,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "logging_steps": 1,
    "save_steps": 2,
    "use_cpu": True,
}
PATIENCE = 240
# Of older processors: as PyTorch and as oneDNN name them.
INSTRUCTION_SETS = {"avx2": ("avx2", "AVX2"), "sse": ("default", "SSE41")} if platform.machine() == "x86_64" else {}
# Importing takes longer than a run of these sizes.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([f"mobilebert_hf.{module}" for module in ("distillation.run", "finetuning.run")])


class Workshop:
    """A folder with a corpus, in which recipes run without network, and on the CPU unless told otherwise."""

    def __init__(self, folder, corpus):
        self.folder, self.corpus = folder, str(corpus)
        self.teacher, self.student = str(folder / "teacher"), str(folder / "student")
        self.environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}

    def make_teacher(self, tokenizer):
        """An untrained teacher, whose layers differ."""
        torch.manual_seed(0)
        config = IBBertConfig(vocab_size=len(tokenizer), initializer_range=0.1, **TEACHER)
        IBBertForPreTraining(config).save_pretrained(self.teacher)
        tokenizer.save_pretrained(self.teacher)

    def run(self, *command):
        """Runs a command to its end."""
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)

    def command(self, recipe, processes=1, **values):
        """The command that launches a recipe, with its values in a file."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
        if processes > 1:
            # `--cpu` would start one process alone; this one is only called so.
            launcher += ["--multi_gpu", "--main_process_port", str(free_port())]
        elif values.get("use_cpu", True):
            launcher += ["--cpu"]
        return [*launcher, str(RECIPES / f"{recipe}.py"), "--config", str(self.write(recipe, **values))]

    def write(self, recipe, **values):
        """Writes a recipe's values into a file."""
        cache = str(self.folder / "cache")
        path = self.folder / f"{recipe}-{Path(values['output_dir']).name}.yaml"
        path.write_text(yaml.safe_dump({**COMMON, "corpus": [self.corpus], "cache_dir": cache, **values}))
        return path

    def pretraining(self, **changes):
        """The values of a short pre-training."""
        values = {
            "output_dir": self.teacher,
            "preset": "ib-bert-large",
            "config_overrides": TEACHER,
            "vocab_size": 200,
            "max_steps": 4,
        }
        return {**values, **changes}

    def distillation(self, **changes):
        """The values of a short distillation."""
        values = {
            "output_dir": self.student,
            "teacher": self.teacher,
            "config_overrides": {"intra_bottleneck_size": 16, "intermediate_size": 32},
            **PAPER,
            "transfer_steps": 4,
            "distillation_steps": 2,
            "weight_decay": 0.0,
            "adam_beta2": 0.999,
        }
        return {**values, **changes}

    def pretrain(self, processes=1, **changes):
        return self.run(*self.command("pretrain", processes, **self.pretraining(**changes)))

    def distill(self, processes=1, **changes):
        return self.run(*self.command("distill", processes, **self.distillation(**changes)))

    def fork(self, recipe, processes=1, before=None, **values):
        """Starts a recipe in forked processes; see `Fork`."""
        return Fork(recipe, self.write(recipe, **values), processes, before)


class Fork:
    """A recipe that runs in one process, or in several as a launcher starts them, each in a session of its own.

    Args:
        recipe: Its name.
        config: Its file.
        processes: How many.
        before: A function that each process calls first, or None.
    """

    def __init__(self, recipe, config, processes=1, before=None):
        self.log = config.with_suffix(".log")
        self.log.write_bytes(b"")
        port = free_port() if processes > 1 else None
        self.processes = [
            FORKS.Process(target=_run, args=(recipe, config, self.log, _environment(rank, processes, port), before))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()

    def wait(self, patience=PATIENCE):
        """Waits for the end of all; a launcher ends the others where one fails. Returns their exit codes."""
        for process in self.processes:
            process.join(patience)
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.signal(signal.SIGKILL)
        assert not hanging, f"processes {hanging} hang:\n{self.output[-3000:]}"
        return [process.exitcode for process in self.processes]

    def signal(self, number):
        """Sends a signal to every process that still runs."""
        for process in self.processes:
            # The fork server may have reaped it, and its pipe not told so yet.
            with contextlib.suppress(ProcessLookupError):
                if process.is_alive():
                    os.kill(process.pid, number)

    @property
    def exit_code(self):
        """Of the first process."""
        return self.processes[0].exitcode

    @property
    def output(self):
        """What all wrote to stdout and stderr."""
        return self.log.read_text(errors="replace")


def fork_with(recipe, config, before=None, **values):
    """Runs a recipe in a fork to its end, with just these values, written to `config`; see `Fork`."""
    config.write_text(yaml.safe_dump(values))
    run = Fork(recipe, config, before=before)
    run.wait()
    return run


def in_fork(function, *arguments):
    """The result of a function in a forked process."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        pytest.fail(f"{function.__name__} failed in the forked process; see its output")
    finally:
        process.join(PATIENCE)


def _send(sender, function, arguments):
    sender.send(function(*arguments))


class InstructionSet:
    """Limits a process that has not computed anything yet to one of `INSTRUCTION_SETS`."""

    def __init__(self, name):
        self.name = name

    def __call__(self):
        aten, onednn = INSTRUCTION_SETS[self.name]
        os.environ.update(ATEN_CPU_CAPABILITY=aten, ONEDNN_MAX_CPU_ISA=onednn)
        assert torch.backends.cpu.get_cpu_capability() in ("DEFAULT", aten.upper()), "something was computed before"


class Death:
    """Ends the process by SIGKILL, at the `count`-th change in a folder whose description matches a pattern.

    A change is told by Python just before it happens, and described as `open PATH` (to write), `os.rename PATH PATH`,
    `shutil.rmtree PATH`, and the like, with paths within the folder.
    """

    CHANGES = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"})

    def __init__(self, folder, pattern="", count=1):
        self.folder, self.pattern, self.left = f"{folder}{os.sep}", re.compile(pattern), count

    def __call__(self):
        sys.addaudithook(self._look)

    def _look(self, event, arguments):
        if event not in self.CHANGES or (event == "open" and not _writes(*arguments[1:])):
            return
        paths = [os.fspath(path) for path in arguments if isinstance(path, (str, os.PathLike))]
        within = [path.removeprefix(self.folder) for path in paths if path.startswith(self.folder)]
        if within and self.pattern.search(" ".join([event, *within])):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _writes(mode, flags):
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else any(m in mode for m in "wax+")


# Below those that the system hands out to whoever asks, and others in each test process: what is free now must be so
# until the processes that are told of it have started.
PORTS = itertools.count(10_000 + 100 * (os.getpid() % 200))


def free_port():
    return next(port for port in PORTS if _is_free(port))


def _is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _environment(rank, processes, port):
    if processes == 1:
        return {}
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {name: str(value) for name, value in {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}


def _run(recipe, config, log, environment, before):
    os.setsid()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if before is not None:
        before()
    sys.argv = [recipe, "--config", str(config)]
    runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
