"""The recipes: a teacher from raw text, then a student of it, on a tiny corpus."""

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

import mobilebert_hf
from mobilebert_hf.distillation.pretrain import RECIPE_ARGUMENTS, pretrain
from mobilebert_hf.recipe import parse_recipe

from .workshop import Workshop

TERMS = ("feature_map", "mean", "variance", "attention")
STOCK = """
import sys, transformers
network = transformers.AutoModelForMaskedLM.from_pretrained(sys.argv[1])
fill = transformers.pipeline("fill-mask", model=sys.argv[1])
assert type(network) is transformers.MobileBertForMaskedLM
assert "mobilebert_hf" not in sys.modules
print(network.config.model_type, fill(f"the {fill.tokenizer.mask_token} engine")[0]["score"])
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, tiny_corpus):
    """With a trained teacher and a distilled student."""
    workshop = Workshop(tmp_path_factory.mktemp("recipes"), tiny_corpus)
    for recipe, values in (("pretrain", workshop.pretraining()), ("distill", workshop.distillation())):
        forked = workshop.fork(recipe, **values)
        assert forked.wait() == [0], forked.output[-3000:]
    return workshop


@pytest.mark.parametrize(("kind", "architecture"), [("teacher", "IBBert"), ("student", "MobileBert")])
def test_what_is_saved_loads_and_fills_masks(workshop, kind, architecture):
    folder = getattr(workshop, kind)
    network = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(network) is getattr(mobilebert_hf, f"{architecture}ForMaskedLM")
    assert network.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    filled = pipeline("fill-mask", model=folder)("The [MASK] begins slowly.", top_k=3)
    assert len(filled) == 3
    assert all(0 < answer["score"] < 1 for answer in filled)


def test_the_student_loads_in_stock_transformers(workshop):
    finished = workshop.run(sys.executable, "-c", STOCK, workshop.student)
    assert finished.returncode == 0, finished.stderr[-3000:]
    model_type, score = finished.stdout.split()
    assert model_type == "mobilebert"
    ours = pipeline("fill-mask", model=workshop.student)("the [MASK] engine")[0]["score"]
    assert float(score) == pytest.approx(ours, rel=1e-5)


def test_the_evaluation_is_written_down(workshop):
    common = {f"eval_{task}_{kind}" for task in ("masked_lm", "next_sentence") for kind in ("loss", "accuracy")}
    layers = {f"eval_layer_{layer}/{term}" for layer in range(2) for term in TERMS}
    for folder, expected in ((workshop.teacher, common), (workshop.student, common | layers)):
        results = json.loads((Path(folder) / "eval_results.json").read_text())
        assert expected <= results.keys()
        assert 0 < results["eval_loss"] < 12


@pytest.mark.parametrize(("kind", "told"), [("teacher", "pre-trained"), ("student", "progressive knowledge transfer")])
def test_a_card_tells_of_the_run(workshop, kind, told):
    folder = Path(getattr(workshop, kind))
    card = ModelCard.load(folder / "README.md")
    assert told in card.text
    accuracy = json.loads((folder / "eval_results.json").read_text())["eval_masked_lm_accuracy"]
    assert f"| masked-LM accuracy | {accuracy:.1%} |" in card.text
    assert "![Losses of the run](report.png)" in card.text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_from_the_last_checkpoint(workshop):
    folder = Path(workshop.student)
    weights = (folder / "model.safetensors").read_bytes()
    kept = folder / "checkpoint-4" / "trainer_state.json"
    written = kept.stat().st_mtime_ns
    # As if the run had been interrupted in the distillation stage.
    (folder / "checkpoint-6").rename(folder.parent / "checkpoint-6")
    (folder / "model.safetensors").unlink()
    finished = workshop.fork("distill", **workshop.distillation())
    assert finished.wait() == [0], finished.output[-3000:]
    assert kept.stat().st_mtime_ns == written, "it started over"
    assert (folder / "checkpoint-6").is_dir()
    assert (folder / "model.safetensors").read_bytes() == weights, "the interruption changed the result"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"processes": 2}, {"streaming": True}], ids=["two-processes", "streaming"])
def test_other_ways_to_launch_reach_the_end(workshop, tmp_path, changes):
    finished = workshop.distill(output_dir=str(tmp_path), freezing="hard", **changes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert 0 < results["eval_masked_lm_loss"] < 12
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 6
    random_states = {path.name for path in (tmp_path / "checkpoint-6").glob("rng_state*")}
    ranks = ["_0", "_1"] if "processes" in changes else [""]
    assert random_states == {f"rng_state{rank}.pth" for rank in ranks}, "as many processes as were asked for"


def test_a_wrong_path_is_named_before_anything_is_made(tmp_path):
    output_dir = tmp_path / "nothing"
    arguments = parse_recipe(RECIPE_ARGUMENTS, ["--corpus", "no_such_file.txt", "--output_dir", str(output_dir)])
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'no_such_file\.txt'"):
        pretrain(*arguments)
    assert not output_dir.exists()
