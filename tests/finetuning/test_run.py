"""`recipes/finetune.py`: the task chooses the arguments."""

import pytest

from mobilebert_hf.finetuning import glue, squad
from mobilebert_hf.finetuning.arguments import TaskArguments
from mobilebert_hf.finetuning.run import argument_classes, finetune
from mobilebert_hf.recipe import parse_recipe


@pytest.mark.parametrize(
    ("tasks", "classes"),
    [
        (["squad"], squad.RECIPE_ARGUMENTS),
        (["SQuAD"], squad.RECIPE_ARGUMENTS),
        (["cola", "RTE", "STS-B"], glue.RECIPE_ARGUMENTS),
        (["glue"], glue.RECIPE_ARGUMENTS),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_a_task_chooses_the_arguments(tmp_path, tasks, classes, in_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: [{', '.join(tasks)}]\nmodel: m\n")
    options = ["--config", str(path)] if in_file else ["--model", "m", "--task", *tasks]
    assert argument_classes(options) == classes
    encoder, task, *_ = parse_recipe(argument_classes(options), options)
    assert (encoder.model, task.task) == ("m", tasks)


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("task: squad\n")
    assert argument_classes(["--config", str(path)]) == squad.RECIPE_ARGUMENTS
    assert argument_classes(["--config", str(path), "--task", "cola"]) == glue.RECIPE_ARGUMENTS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "No task is given: add --task squad"),
        (["--task", "colla"], "'colla' is not a task: expected squad, or a task of GLUE: cola, sst2"),
        (["--task", "squad", "cola"], "expected tasks of one benchmark"),
    ],
)
def test_what_is_no_task_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        argument_classes(["--model", "m", *options])


def test_options_of_another_task_are_refused():
    options = ["--model", "m", "--task", "squad", "--seeds", "1"]
    with pytest.raises(ValueError, match="--seeds"):
        parse_recipe(argument_classes(options), options)


def test_the_task_chooses_the_function(monkeypatch):
    monkeypatch.setattr(squad, "finetune_squad", lambda *arguments: ("squad", len(arguments)))
    monkeypatch.setattr(glue, "finetune_glue", lambda *arguments: ("glue", len(arguments)))
    for task, expected in (("squad", ("squad", 3)), ("cola", ("glue", 4))):
        options = ["--model", "m", "--task", task, "--use_cpu", "true"]
        assert finetune(*parse_recipe(argument_classes(options), options)) == expected


@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        (["--help"], "--task squad --help", "--doc_stride"),
        (["--task", "squad", "--help"], "--doc_stride", "--bi_encoder"),
        (["--task", "cola", "--help"], "--bi_encoder", "--doc_stride"),
    ],
)
def test_help_lists_the_options_of_the_task(options, shown, hidden, capsys):
    classes = argument_classes(options)
    with pytest.raises(SystemExit):
        parse_recipe(classes, options)
    printed = capsys.readouterr().out
    assert shown in " ".join(printed.split())
    assert hidden not in printed
    assert (classes == (TaskArguments,)) is ("--learning_rate" not in printed)
