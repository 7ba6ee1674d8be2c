"""Cards say what the files of a run say, each kind of run in its way."""

import json

import pytest
from huggingface_hub import ModelCard

from mobilebert_hf.hub.card import MARKER, Facts, eval_results, render_card
from mobilebert_hf.hub.run_card import describe, is_own_card, read_run, write_run_card

from ..models.helpers import build


@pytest.fixture
def make_run(tmp_path):
    """Makes a run's folder: a model of a head, the classes and values of its recipe, and its files of results."""

    def make(head, classes, values, family="MobileBert", folder="run", **files):
        path = tmp_path / folder
        build(family, head).save_pretrained(path)
        recipe = path.parent.parent / "recipe.yaml" if folder.count("/") == 2 else path / "recipe.yaml"
        lines = "\n".join(f"{name}: {value}" for name, value in values.items())
        recipe.write_text(f"# {', '.join(classes)}\n# mobilebert-hf 0.0.9, commit abc\n{lines}\n")
        for name, content in files.items():
            (path / f"{name}.json").write_text(json.dumps(content))
        return path

    return make


def card_of(folder, **fields):
    write_run_card(read_run(folder), **fields)
    return ModelCard.load(folder / "README.md")


def test_a_distilled_student(make_run):
    folder = make_run(
        "ForPreTraining",
        ["StudentArguments", "PretrainingDataArguments", "DistillationArguments"],
        {"teacher": "org/ib-bert", "strategy": "joint", "learning_rate": 0.001},
        eval_results={"eval_masked_lm_loss": 2.5, "eval_masked_lm_accuracy": 0.45, "epoch": 1},
    )
    card = card_of(folder, license="mit", language="de")
    assert card.data.base_model == "org/ib-bert"
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", "de", "fill-mask")
    assert card.data.eval_results is None
    assert "distilled from its teacher [org/ib-bert](https://huggingface.co/org/ib-bert) by joint" in card.text
    assert "| masked-LM accuracy | 45.0% |" in card.text
    assert "| learning_rate | 0.001 |" in card.text
    assert "accelerate launch recipes/distill.py --config recipe.yaml" in card.text
    assert "Made with mobilebert-hf 0.0.9, commit abc." in card.text


def test_a_local_teacher_keeps_its_path_to_itself(make_run, tmp_path):
    teacher = tmp_path / "secret" / "teacher"
    teacher.mkdir(parents=True)
    folder = make_run("ForPreTraining", ["DistillationArguments"], {"teacher": teacher, "output_dir": tmp_path})
    card = card_of(folder)
    assert card.data.base_model is None
    assert "`teacher`" in card.text
    assert "secret" not in card.content
    assert str(tmp_path) not in card.content


def test_a_pretrained_teacher(make_run):
    folder = make_run("ForPreTraining", ["ModelArguments", "PreTrainingArguments"], {}, family="IBBert")
    card = card_of(folder)
    assert "IB-BERT, pre-trained" in card.text
    assert "trust_remote_code=True" in card.text
    assert "ib_bert" in card.data.tags


def test_held_out_training_examples_are_no_validation_split(make_run):
    folder = make_run(
        "ForSequenceClassification",
        ["EncoderArguments", "GlueArguments", "GridArguments", "TrainingArguments"],
        {"model": "org/mobilebert", "holdout": 0.1},
        folder="glue/CoLA/batch8",
        results={
            "scores": {"validation": {"matthews_correlation": 0.4}},
            "majority": {"validation": {"matthews_correlation": 0.0}},
        },
    )
    card = card_of(folder)
    assert "| CoLA validation, matthews_correlation | 40.0 | 0.0 |" in card.text
    assert card.data.eval_results is None


def test_one_of_a_sweeps_models(make_run):
    scores = {"validation": {"matthews_correlation": 0.421, "undefined": {}}}
    folder = make_run(
        "ForSequenceClassification",
        ["EncoderArguments", "GlueArguments", "GridArguments", "TrainingArguments"],
        {"model": "org/mobilebert"},
        folder="glue/CoLA/batch8",
        results={"scores": scores, "majority": {"validation": {"matthews_correlation": None}}},
    )
    card = card_of(folder)
    assert "fine-tuned on CoLA of GLUE" in card.text
    assert "| CoLA validation, matthews_correlation | 42.1 | undefined |" in card.text
    [result] = card.data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "cola", "validation")
    assert result.metric_value == 42.1
    assert card.data.pipeline_tag == "text-classification"


@pytest.mark.parametrize(
    ("validation", "listed"),
    [
        ("dev-v2.0.json.gz", True),
        ("rajpurkar/squad_v2", True),
        ("my-questions.json", False),
        ("dev-v2.0-half.json.gz", False),
    ],
)
def test_answers_to_ones_own_questions_are_no_scores_on_squad(validation, listed, make_run):
    folder = make_run(
        "ForQuestionAnswering",
        ["EncoderArguments", "SquadArguments", "TrainingArguments"],
        {"model": "org/mobilebert", "validation": validation},
        eval_results={"eval_exact": 61.5, "eval_f1": 70.125},
    )
    card = card_of(folder)
    assert "| SQuAD v2.0 dev, f1 | 70.12 |" in card.text
    facts = describe(read_run(folder))
    if listed:
        assert {result.dataset_type for result in card.data.eval_results} == {"rajpurkar/squad_v2"}
        assert ".eval_results/squad_v2.yaml" in eval_results(facts)
    else:
        assert card.data.eval_results is None
        assert eval_results(facts) == {}


def test_a_card_of_ones_own_stays(make_run):
    folder = make_run("Model", ["DistillationArguments"], {})
    card_of(folder)
    assert MARKER in (folder / "README.md").read_text()
    assert not is_own_card(folder)
    (folder / "README.md").write_text("Mine.\n")
    write_run_card(read_run(folder))
    assert (folder / "README.md").read_text() == "Mine.\n"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model: there is no config\.json in it"):
        read_run(tmp_path)


def test_nothing_that_is_not_known_is_said():
    card = ModelCard(render_card(Facts(name="x", summary="A.", training="B.", pipeline_tag="fill-mask")))
    assert "None" not in card.content
    for heading in ("Results", "Exports", "Use", "Speed"):
        assert f"## {heading}" not in card.text
    for heading in ("How it was made", "Limits and bias", "Citation"):
        assert f"## {heading}" in card.text
