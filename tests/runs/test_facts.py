"""What a model's folder says of it, and what is wrong with a file that does not say it."""

import json

import pytest

from mobilebert_hf.runs.facts import FACTS, ModelFacts, ModelRecord, Score, Source, hub_ids
from mobilebert_hf.runs.schema import read_record
from mobilebert_hf.runs.stages import RunStage, RunStages

FULL = ModelFacts(
    summary="A student of {source}, 8 bits — small.",
    source=Source.of("teacher", "org/teacher"),
    datasets=("nyu-mll/glue",),
    scores=(Score("text-classification", "CoLA", "nyu-mll/glue", "cola", "validation", "f1", 42.1),),
    results=(("", "this model"), ("CoLA", "42.1")),
    results_note="In percent.",
    picture="report.png",
    command="make it",
    version="0",
)


@pytest.mark.parametrize("facts", [FULL, ModelFacts()], ids=["full", "empty"])
def test_facts_are_read_as_they_were_written(facts, tmp_path):
    facts.write(tmp_path)
    assert read_record(tmp_path / FACTS, ModelFacts) == facts


def test_stages_are_read_as_they_were_written(tmp_path):
    assert RunStages.read(tmp_path) is None
    stages = (RunStage("layer 0", 0, 4, (0,), False, 1), RunStage("distillation", 4, 8, (), True))
    written = RunStages("progressive", stages, {"mean": 5000.0})
    written.write(tmp_path / "new")
    assert RunStages.read(tmp_path / "new") == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"summary": None}, r"facts\.json: summary is None: expected str"),
        ({"scores": [{"task": "x"}]}, r"facts\.json: scores\[0\]\.name is missing"),
        ({"datasets": "nyu-mll/glue"}, r"facts\.json: datasets is 'nyu-mll/glue': expected list"),
        ({"results": [["a", 1]]}, r"facts\.json: results\[0\]\[1\] is 1: expected str"),
        ({"source": {"role": "base", "name": 3}}, r"facts\.json: source\.name is 3: expected str"),
        ({"sumary": "x"}, r"facts\.json: sumary is not a field of ModelFacts: expected summary, source, "),
    ],
)
def test_what_is_wrong_is_named_by_file_and_field(change, message, tmp_path):
    FULL.write(tmp_path)
    path = tmp_path / FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_record(path, ModelFacts)


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / FACTS).write_text("{")
    with pytest.raises(ValueError, match=r"facts\.json is damaged: it is not JSON"):
        read_record(tmp_path / FACTS, ModelFacts)
    (tmp_path / FACTS).write_text("[]")
    with pytest.raises(ValueError, match=r"facts\.json: the file is \[\]: expected dict"):
        read_record(tmp_path / FACTS, ModelFacts)


def test_whole_numbers_are_shares_too_and_truths_are_no_numbers(tmp_path):
    content = {"strategy": "joint", "stages": [], "loss_weights": {"mean": 1}}
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(content))
    assert RunStages.read(tmp_path).loss_weights == {"mean": 1.0}
    path.write_text(json.dumps({**content, "loss_weights": {"mean": True}}))
    with pytest.raises(ValueError, match=r"loss_weights\.mean is True: expected float"):
        RunStages.read(tmp_path)


def test_a_place_on_this_machine_is_known_by_its_last_name(tmp_path):
    folder = tmp_path / "secret" / "teacher"
    assert Source.of("teacher", str(folder)) == Source("teacher", "teacher")
    assert Source.of("base", "org/model") == Source("base", "org/model", "org/model")
    assert Source.of("base", "org/model").markdown == "[org/model](https://huggingface.co/org/model)"
    assert Source.of("base", "") is None
    assert hub_ids(["org/corpus", str(tmp_path), "corpus.txt"]) == ("org/corpus",)


def test_a_table_of_its_own_wins_over_held_out_text():
    measured = {"eval_masked_lm_loss": 2.5}
    assert ModelFacts().with_held_out(measured).results == (("on held-out text", ""), ("masked-LM loss", "2.500"))
    assert FULL.with_held_out(measured) == FULL
    assert ModelFacts(version="0").with_held_out({"eval_f1": 1.0}) == ModelFacts(version="0")


def test_a_folder_without_facts_tells_what_it_can(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a model folder: it has no config\.json"):
        ModelRecord.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mobilebert"}')
    (tmp_path / "recipe.yaml").write_text("# SomeArguments\n# mobilebert-hf 0.0.9\nlearning_rate: 0.1\n")
    record = ModelRecord.read(tmp_path)
    assert record.facts == ModelFacts(version="mobilebert-hf 0.0.9")
    assert record.arguments == {"learning_rate": 0.1}
