"""`recipes/finetune.py`: the task chooses the arguments."""

import pytest

from mobilebert_hf.finetuning import glue, labelled, squad
from mobilebert_hf.finetuning.arguments import TaskArguments
from mobilebert_hf.finetuning.run import argument_classes, finetune
from mobilebert_hf.recipe import parse_recipe


@pytest.mark.parametrize(
    ("tasks", "classes"),
    [
        (["squad"], squad.RECIPE_ARGUMENTS),
        (["SQuAD"], squad.RECIPE_ARGUMENTS),
        (["qa"], squad.RECIPE_ARGUMENTS),
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
        ([], "No task is given: add --task with one of classify, .* or --task squad"),
        (["--task", "colla"], "'colla' is not a task: expected classify, .* squad, or a task of GLUE: cola, sst2"),
        (["--task", "squad", "cola"], "expected one of classify, .* or squad, or one or more tasks of GLUE"),
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
    monkeypatch.setattr(labelled, "finetune_labelled", lambda *arguments: ("labelled", len(arguments)))
    for task, expected in (("squad", ("squad", 3)), ("cola", ("glue", 4)), ("tag", ("labelled", 3))):
        options = ["--model", "m", "--task", task, "--train", "train.csv", "--use_cpu", "true"]
        options = [option for option in options if task != "cola" or option not in ("--train", "train.csv")]
        assert finetune(*parse_recipe(argument_classes(options), options)) == expected


@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        (["--help"], "--task squad --help", "--doc_stride"),
        (["--task", "squad", "--help"], "--doc_stride", "--bi_encoder"),
        (["--task", "cola", "--help"], "--bi_encoder", "--doc_stride"),
        (["--task", "classify", "--help"], "--label_column", "--doc_stride"),
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
