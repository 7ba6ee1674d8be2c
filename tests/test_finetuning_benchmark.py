import pytest

import finetuning
from mobilebert_hf.finetuning.run import argument_classes
from mobilebert_hf.recipe import parse_recipe

PAIRS = finetuning.commands("student", "data", "runs")
COMMANDS = {name: words for steps in PAIRS for name, words in steps.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_step_is_a_recipe_with_arguments_it_knows(name, monkeypatch):
    monkeypatch.chdir(finetuning.ROOT)
    recipe, *options = COMMANDS[name]
    assert (finetuning.ROOT / recipe).is_file()
    *_, training = parse_recipe(argument_classes(options), options)
    assert training.output_dir == f"runs/{name}"


def test_the_student_and_the_one_from_scratch_differ_in_the_weights_alone():
    for task in ("glue", "squad", "qqp", "rte-apart"):
        student, scratch = COMMANDS[task][:-2], COMMANDS[f"{task}-scratch"][:-2]
        assert scratch == [*student, "--random_weights", "true"]
