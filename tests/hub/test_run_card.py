"""Cards say what a model's folder says, whatever made the model."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from mobilebert_hf import MobileBertConfig
from mobilebert_hf.distillation.facts import describe_distilled, describe_pretrained, describe_student
from mobilebert_hf.finetuning.facts import describe_glue_model, describe_squad_model
from mobilebert_hf.hub.card import MARKER, CardData, eval_results, render_card
from mobilebert_hf.hub.run_card import build_card, is_own_card, write_run_card
from mobilebert_hf.runs.facts import ModelFacts, ModelRecord, Source
from mobilebert_hf.runs.run_folder import Recipe
from mobilebert_hf.tasks.glue_tasks import TASKS

from ..models.helpers import build

SNAPSHOTS = Path(__file__).parent / "snapshots"
VERSION = "mobilebert-hf 0.0.9, commit abc"
ARGUMENTS = {"corpus": ["/home/me/secret/corpus.txt"], "learning_rate": 0.001, "output_dir": "/home/me/secret/run"}
HELD_OUT = {"eval_masked_lm_loss": 2.5, "eval_masked_lm_accuracy": 0.45, "epoch": 1}
COLA = {"scores": {"validation": {"matthews_correlation": 0.421}}, "decision": {}}
RTE = {
    "scores": {"validation": {"accuracy": 0.66}},
    "majority": {"validation": {"accuracy": 0.527}},
    "decision": {"threshold": 0.7312},
}
STUDENT_RESULTS = {
    "minutes": 31.4,
    "device": "a processor",
    "length": 128,
    "task": {"name": "stsb", "split": "validation"},
    "student": {"task": 0.7693},
}
ROWS = [["", "teacher", "student"], ["parameters of the encoder", "22.6M", "7.3M"]]


def teacher_at(path):
    return SimpleNamespace(config=SimpleNamespace(name_or_path=path))


def glue(task, details, bi_encoder=False, held_out=False):
    details = {"majority": {"validation": {"matthews_correlation": None}}, **details}
    options = {"bi_encoder": bi_encoder, "held_out": held_out}
    return describe_glue_model(TASKS[task], details, "org/mobilebert", "nyu-mll/glue", **options)


# By the snapshot's name: head, family, facts.
KINDS = {
    "pretrained_teacher": ("ForPreTraining", "IBBert", describe_pretrained("ib_bert").with_held_out(HELD_OUT)),
    "pretrained_student": ("ForPreTraining", "MobileBert", describe_pretrained("mobilebert")),
    "distilled": (
        "ForPreTraining",
        "MobileBert",
        describe_distilled(teacher_at("org/ib-bert"), "joint").with_held_out(HELD_OUT),
    ),
    "student_of_any": ("Model", "MobileBert", describe_student("org/minilm", STUDENT_RESULTS, ROWS)),
    "glue": ("ForSequenceClassification", "MobileBert", glue("cola", COLA)),
    "glue_bi_encoder": ("Model", "MobileBert", glue("rte", RTE, bi_encoder=True)),
    "squad": (
        "ForQuestionAnswering",
        "MobileBert",
        describe_squad_model(
            "org/mobilebert", "rajpurkar/squad_v2", "rajpurkar/squad_v2", {"eval_exact": 61.5, "eval_f1": 70.125}
        ),
    ),
    "unknown": ("ForMaskedLM", "MobileBert", ModelFacts()),
}


@pytest.fixture
def make_run(tmp_path):
    """Makes a model's folder as a run leaves it: the model, its facts, its recipe."""

    def make(head, facts, family="MobileBert", arguments=ARGUMENTS):
        folder = tmp_path / "run"
        build(family, head).save_pretrained(folder)
        facts.write(folder)
        Recipe(("SomeArguments",), arguments, VERSION).write(folder / "recipe.yaml")
        return folder

    return make


def card_of(folder, **fields):
    write_run_card(ModelRecord.read(folder), **fields)
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_each_kind(kind, make_run):
    """Where a card is meant to change: delete its snapshot, run this test twice, and read the difference."""
    head, family, facts = KINDS[kind]
    folder = make_run(head, facts, family)
    if head == "Model":
        (folder / "modules.json").write_text("[]")  # of a sentence encoder
    text = card_of(folder, license="mit", language="de").content.replace(facts.version, VERSION)
    path = SNAPSHOTS / f"{kind}.md"
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} was not there, and is now what the card says.")
    assert text == path.read_text(encoding="utf-8")


def test_metadata_are_the_hubs(make_run):
    card = card_of(make_run(*KINDS["distilled"][::2]), license="mit", language="de")
    assert card.data.base_model == "org/ib-bert"
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", "de", "fill-mask")
    assert card.data.eval_results is None


def test_local_paths_stay_private(make_run, tmp_path):
    teacher = tmp_path / "secret" / "teacher"
    teacher.mkdir(parents=True)
    arguments = {"teacher": str(teacher), "output_dir": str(tmp_path)}
    folder = make_run("ForPreTraining", describe_distilled(teacher_at(str(teacher)), "joint"), arguments=arguments)
    card = card_of(folder)
    assert card.data.base_model is None
    assert "`teacher`" in card.text
    for text in (card.content, (folder / "facts.json").read_text()):
        assert "secret" not in text
        assert str(tmp_path) not in text


def test_held_out_training_examples_are_no_validation_split(make_run):
    card = card_of(make_run("ForSequenceClassification", glue("cola", COLA, held_out=True)))
    assert "| CoLA validation, matthews_correlation | 42.1 | undefined |" in card.text
    assert card.data.eval_results is None


def test_scores_are_in_the_metadata(make_run):
    card = card_of(make_run("ForSequenceClassification", glue("cola", COLA)))
    [result] = card.data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "cola", "validation")
    assert result.metric_value == 42.1
    assert card.data.datasets == ["nyu-mll/glue"]


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
    measured = {"eval_exact": 61.5, "eval_f1": 70.125}
    facts = describe_squad_model("org/mobilebert", "train-v2.0.json", validation, measured)
    folder = make_run("ForQuestionAnswering", facts)
    card = card_of(folder)
    assert "| SQuAD v2.0 dev, f1 | 70.12 |" in card.text
    described = build_card(ModelRecord.read(folder))
    if listed:
        assert {result.dataset_type for result in card.data.eval_results} == {"rajpurkar/squad_v2"}
        assert ".eval_results/squad_v2.yaml" in eval_results(described)
    else:
        assert card.data.eval_results is None
        assert eval_results(described) == {}


def test_a_card_of_ones_own_stays(make_run):
    folder = make_run("Model", ModelFacts(summary="A student of {source}.", source=Source("teacher", "x")))
    card_of(folder)
    assert MARKER in (folder / "README.md").read_text()
    assert not is_own_card(folder)
    (folder / "README.md").write_text("Mine.\n")
    write_run_card(ModelRecord.read(folder))
    assert (folder / "README.md").read_text() == "Mine.\n"


def test_a_recipe_that_is_not_there_makes_nothing_again(make_run):
    folder = make_run(*KINDS["distilled"][::2])
    (folder / "recipe.yaml").unlink()
    card = card_of(folder)
    assert "The run left no recipe." in card.text
    assert "accelerate launch" not in card.text


def test_nothing_that_is_not_known_is_said():
    card = ModelCard(render_card(CardData(name="x", summary="A.", training="B.", pipeline_tag="fill-mask")))
    assert "None" not in card.content
    for heading in ("Results", "Exports", "Use", "Speed"):
        assert f"## {heading}" not in card.text
    for heading in ("Training", "Limits and bias", "Citation"):
        assert f"## {heading}" in card.text


def test_the_mask_is_that_of_the_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<mask>"}')
    record = ModelRecord(tmp_path, MobileBertConfig(architectures=["MobileBertForMaskedLM"]).to_dict(), ModelFacts())
    code = "".join(use.code for use in build_card(record, "me/x", {"onnx/model.onnx"}).uses)
    assert "The capital of France is <mask>." in code
    assert "[MASK]" not in code
