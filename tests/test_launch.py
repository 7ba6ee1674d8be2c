"""`mobilebert-hf pretrain`, `distill` and `finetune` run the recipes, with what the machine has."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mobilebert_hf import launch
from mobilebert_hf.distillation import DistillationArguments, pretrain
from mobilebert_hf.finetuning.run import finetune
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf_cli import app, recipes


@pytest.fixture
def launched(monkeypatch):
    """The recipes that are launched in this process: function, classes and options."""
    calls = []
    monkeypatch.setattr(launch, "launch", lambda *call: calls.append(call))
    return calls


def invoke(*options):
    outcome = CliRunner().invoke(app, options)
    assert outcome.exit_code == 0, outcome.output


def test_pretrain_passes_its_options_on(launched):
    invoke("pretrain", "--processes", "1", "--config", "pretrain.yaml", "--max_steps", "7")
    [(recipe, _, options)] = launched
    assert recipe is pretrain
    assert options == ["--config", "pretrain.yaml", "--max_steps", "7"]


def test_finetune_chooses_the_arguments_by_the_task(launched):
    options = ["--task", "squad", "--model", "m", "--doc_stride", "64"]
    invoke("finetune", "--processes", "1", *options)
    [(recipe, classes, passed)] = launched
    assert (recipe, passed) == (finetune, options)
    _, squad, _ = parse_recipe(classes(passed), passed)
    assert squad.doc_stride == 64


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["pretrain"], "--preset"),
        (["distill", "--processes", "2"], "--transfer_steps"),
        (["finetune", "--task", "squad"], "--doc_stride"),
        (["finetune", "--task", "cola"], "--bi_encoder"),
        (["finetune", "--task", "classify"], "--label_column"),
        (["distill", "--processes", "1", "--data", "a.csv"], "--feature_weight"),
    ],
)
def test_help_shows_the_options_of_command_and_recipe(options, shown):
    outcome = CliRunner().invoke(app, [*options, "--help"])
    assert outcome.exit_code == 0, outcome.output
    assert "--processes" in outcome.output
    assert shown in outcome.output
    assert "--learning_rate" in outcome.output


def test_distill_has_settings_for_the_machine(launched, tmp_path):
    given = ("--teacher", "t", "--corpus", "a.txt", "--corpus", "b.txt", "--output", str(tmp_path), "--minutes", "5")
    invoke("distill", "--processes", "1", *given, "--size", "tiny", "--bf16", "false", "--objective", "features")
    [(recipe, classes, options)] = launched
    student, data, training = parse_recipe(classes(options), options)
    assert recipe is launch.distill_any
    assert (student.teacher, student.size, data.corpus) == ("t", "tiny", ["a.txt", "b.txt"])
    assert isinstance(training, DistillationArguments)
    assert (training.output_dir, training.minutes, training.save_total_limit) == (str(tmp_path), 5.0, 2)
    assert training.per_device_train_batch_size in (recipes.BATCH_SIZE, recipes.ACCELERATED_BATCH_SIZE)


@pytest.mark.parametrize("config", [("--config", "my.yaml"), ("--config=my.yaml",)])
def test_distill_leaves_a_recipes_settings_as_they_are(launched, config):
    invoke("distill", "--processes", "1", "--teacher", "t", *config)
    assert launched[0][2] == ["--teacher", "t", *config]


@pytest.mark.parametrize(
    ("command", "accelerator", "options"),
    [
        ("distill", True, []),
        ("distill", False, ["--use_cpu", "true"]),
        ("pretrain", False, ["--use_cpu", "true"]),
        ("finetune", False, ["--use_cpu", "true"]),
    ],
)
def test_several_processes_are_started_by_accelerate(launched, monkeypatch, command, accelerator, options):
    """On the CPU they only connect to each other with `use_cpu`."""
    commands = []
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    done = subprocess.CompletedProcess((), 0)
    monkeypatch.setattr(recipes.subprocess, "run", lambda command, check: commands.append(command) or done)
    invoke(command, "--processes", "2", "--config", "my.yaml")
    assert not launched
    assert commands[0][:4] == [sys.executable, "-m", "accelerate.commands.launch", "--num_processes"]
    started = commands[0][commands[0].index("mobilebert_hf.launch") :]
    assert started == ["mobilebert_hf.launch", command, *options, "--config", "my.yaml"]
