"""The command `mobilebert-hf` as a user types it."""

import itertools
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer

from mobilebert_hf.distillation import PAPER
from mobilebert_hf.distillation.pretrain import RECIPE_ARGUMENTS as PRETRAINING
from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS as DISTILLATION
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf_cli.several import repeat_options

from .helpers import mobilebert

RECIPES = Path(__file__).parents[1] / "recipes"


def test_help_is_quick_and_loads_no_network_library():
    script = """
import sys
from mobilebert_hf_cli import app
try:
    app(["--help"])
finally:
    assert not {"torch", "transformers", "mobilebert_hf"} & set(sys.modules)
"""
    seconds = []
    while not seconds or (seconds[-1] >= 0.7 and len(seconds) < 5):  # others may use the processor as well
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert (done.returncode, done.stderr) == (0, "")
    verbs = "pretrain distill finetune export score benchmark report publish convert schedule vocabulary trim demo"
    assert re.findall(r"^│ (\w+) ", done.stdout, re.MULTILINE) == verbs.split()
    assert min(seconds) < 0.7


def test_schedule_prints_a_table_and_draws_a_picture(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "schedule.png"
    words = ("schedule", RECIPES / "distill_ib_bert.yaml", "--layers", 6, "--plot", picture)
    assert mobilebert(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "layer 5" in printed
    assert "8,000 steps in 7 stages" in printed
    assert min(Image.open(picture).size) > 300


def test_schedule_of_too_many_layers_says_what_is_allowed(monkeypatch):
    message = mobilebert(monkeypatch, "schedule", RECIPES / "distill_ib_bert.yaml", "--layers", "4000")
    assert message.startswith("mobilebert-hf: ")
    assert "transfer_steps is 3000, but must be at least one for each of 4000 layers" in message


@pytest.mark.slow
def test_an_error_is_one_line_in_a_process_of_its_own():
    """As a user calls it."""
    command = [str(Path(sys.executable).with_name("mobilebert-hf")), "schedule"]
    command += [str(RECIPES / "distill_ib_bert.yaml"), "--layers", "4000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    # Libraries may warn before it.
    assert done.stderr.splitlines()[-1].startswith("mobilebert-hf: ")


def test_vocabulary_makes_a_tokenizer(tiny_corpus, tmp_path, monkeypatch):
    words = ("vocabulary", tiny_corpus, "--size", 200, "--output", tmp_path / "tokenizer")
    assert mobilebert(monkeypatch, *words) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert 100 < len(tokenizer) <= 200
    assert tokenizer.unk_token_id not in tokenizer("the engine")["input_ids"]


CLASSES = {"pretrain": PRETRAINING, "distill": DISTILLATION}
# The others' are tested where their recipes are.
NETWORKS = sorted(path for kind in CLASSES for path in RECIPES.glob(f"{kind}*.yaml"))


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_every_recipe_file_parses_and_its_networks_can_be_made(path, tmp_path):
    [classes] = [classes for recipe, classes in CLASSES.items() if path.stem.startswith(recipe)]
    options = ["--config", str(path), "--output_dir", str(tmp_path), "--bf16", "false"]
    model, data, training = parse_recipe(classes, options)
    assert data.corpus
    if path.stem.startswith("distill"):
        assert training.build_strategy(24).steps == training.transfer_steps + training.distillation_steps
        if "ib_bert" in path.stem:
            names = ["transfer_steps", "distillation_steps"]  # differ from the paper at smaller scales
            assert {name: getattr(training, name) for name in PAPER if name not in names} == {
                name: value for name, value in PAPER.items() if name not in names
            }
    else:
        assert model.build_config().num_hidden_layers > 0


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        ([], "30"),
        (["--minutes", "5"], "5.0"),
        (["--distillation_steps", "9"], None),
        (["--transfer-steps=9"], None),
        (["--config", "file.yaml"], None),
    ],
)
def test_numbers_of_steps_count_in_place_of_the_default_minutes(monkeypatch, options, minutes):
    given = []
    monkeypatch.setattr("mobilebert_hf_cli.recipes._run", lambda context, words, *rest: given.extend(words))
    assert mobilebert(monkeypatch, "distill", "--teacher", "t", "--processes", "1", *options) == 0
    found = [value for name, value in itertools.pairwise(given) if name == "--minutes"]
    assert (found[-1] if found else None) == minutes


@pytest.mark.parametrize(
    ("words", "arguments", "expected"),
    [
        ("--corpus a b --size tiny", 0, "--corpus a --corpus b --size tiny"),
        ("--size tiny --corpus a b", 0, "--size tiny --corpus a --corpus b"),
        ("--corpus=a b --corpus c", 0, "--corpus=a --corpus b --corpus c"),
        ("--corpus a b m o", 2, "--corpus a --corpus b m o"),
        ("--corpus a m o", 2, "--corpus a m o"),
        ("m --corpus a b o", 2, "m --corpus a --corpus b o"),
        ("m o --corpus a b", 2, "m o --corpus a --corpus b"),
        ("--format x m o --corpus a b", 2, "--format x m o --corpus a --corpus b"),
        ("m o", 2, "m o"),
    ],
)
def test_an_option_takes_all_values_that_the_shell_expands(words, arguments, expected):
    assert repeat_options(words.split(), {"--corpus"}, {"--format"}, arguments) == expected.split()


def test_the_calibration_files_of_a_shell_pattern_are_all_taken(monkeypatch):
    calls = []
    monkeypatch.setattr("mobilebert_hf_cli.run_export", lambda *values: calls.append(values))
    for words in ("--calibration a.txt b.txt model out", "model out --calibration a.txt b.txt"):
        assert mobilebert(monkeypatch, "export", *words.split()) == 0
    assert [(*call[:2], call[4]) for call in calls] == [("model", Path("out"), ["a.txt", "b.txt"])] * 2
