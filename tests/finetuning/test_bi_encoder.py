"""`recipes/finetune.py --bi_encoder true`: pairs compared by their embeddings, beside sentence-transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

from mobilebert_hf.finetuning.bi_encoder import best_threshold, cosent_loss
from mobilebert_hf.finetuning.glue import finetune_glue
from mobilebert_hf.tasks.glue_data import load_glue
from mobilebert_hf.tasks.glue_tasks import TASKS

from ..distillation.encoders import CLS, save_modules
from .helpers import glue_arguments


@pytest.fixture(scope="module")
def finished(pretrained, glue_folder, tmp_path_factory):
    """A folder with runs of two tasks, and answers for the server."""
    output = tmp_path_factory.mktemp("bi_encoder") / "runs"
    options = {"task": ["stsb", "rte"], "bi_encoder": True, "predict": True}
    finetune_glue(*glue_arguments(pretrained, glue_folder, output, **options))
    return output


def best(finished, task):
    [folder] = [path.parent for path in (finished / task).glob("*/model.safetensors")]
    return folder


def cosines(folder, rows):
    encoder = SentenceTransformer(str(folder), device="cpu")
    first, second = (encoder.encode(rows[name][:]) for name in ("sentence1", "sentence2"))
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_what_can_be_learned_is_learned(finished):
    rte = json.loads((finished / "results.json").read_text())["tasks"]["rte"]
    assert rte["median"] > 0.8 > rte["majority"]


def test_sentence_transformers_gives_the_same_answers(finished, glue_folder):
    folder = best(finished, "RTE")
    splits = load_glue(TASKS["rte"], glue_folder)
    results = json.loads((folder / "results.json").read_text())
    alike = cosines(folder, splits["validation"]) > results["decision"]["threshold"]
    right = alike == (np.array(splits["validation"]["label"]) == 0)
    assert results["scores"]["validation"]["accuracy"] == pytest.approx(right.mean())
    written = (finished / "predictions" / "RTE.tsv").read_text().splitlines()[1:]
    expected = np.where(cosines(folder, splits["test"]) > results["decision"]["threshold"], "", "not_")
    assert [line.split("\t")[1] for line in written] == [f"{prefix}entailment" for prefix in expected]
    assert len(set(expected)) == 2


def test_scores_are_correlated_with_the_cosines(finished, glue_folder):
    folder = best(finished, "STS-B")
    rows = load_glue(TASKS["stsb"], glue_folder)["validation"]
    scores = json.loads((folder / "results.json").read_text())["scores"]["validation"]
    assert scores["pearson"] == pytest.approx(np.corrcoef(cosines(folder, rows), rows["label"])[0, 1], abs=1e-4)


def test_the_card_says_how_texts_are_compared(finished):
    threshold = json.loads((best(finished, "RTE") / "results.json").read_text())["decision"]["threshold"]
    card = (best(finished, "RTE") / "README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card
    assert f"the label is entailment above {threshold:.3f}" in card
    assert "SentenceTransformer" in card


def test_adapter_and_early_stopping_go_along(pretrained, glue_folder, tmp_path):
    call = glue_arguments(
        *(pretrained, glue_folder, tmp_path),
        encoder={"adapter": "lora"},
        training={"num_train_epochs": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        task=["rte"],
        bi_encoder=True,
        early_stopping=2,
    )
    [run] = finetune_glue(*call)["rte"]
    assert run.details["trained_parameters"] < run.details["parameters"] / 3
    [folder] = (tmp_path / "RTE").iterdir()
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert SentenceTransformer(str(folder), device="cpu").encode("a river").shape == (32,)


def test_a_sentence_encoder_is_trained_through_its_own_modules(pretrained, glue_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(pretrained, source)
    save_modules(source, pooling=CLS, prompts={"query": "river: "}, default_prompt_name="query", max_seq_length=30)
    call = glue_arguments(
        *(str(source), glue_folder, tmp_path / "out"),
        training={"num_train_epochs": 1, "learning_rate": 1e-9},
        task=["rte"],
        bi_encoder=True,
    )
    finetune_glue(*call)
    [folder] = (tmp_path / "out" / "RTE").iterdir()
    texts = ["a river", "the mountain is old"]
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (source, folder))
    np.testing.assert_allclose(after.encode(texts), before.encode(texts), rtol=1e-3, atol=1e-5)
    assert (after[1].pooling_mode, after.default_prompt_name, after.max_seq_length) == ("cls", "query", 30)


@pytest.mark.parametrize("task", ["cola", "mnli", "ax"])
def test_other_tasks_are_refused(task, pretrained, glue_folder, tmp_path):
    with pytest.raises(ValueError, match="choose tasks from mrpc, stsb, qqp, qnli, rte, wnli"):
        finetune_glue(*glue_arguments(pretrained, glue_folder, tmp_path / "out", task=[task], bi_encoder=True))
    assert not (tmp_path / "out").exists()


def test_no_bi_encoder_starts_from_mnli(pretrained, glue_folder, tmp_path):
    with pytest.raises(ValueError, match="mnli_init"):
        finetune_glue(
            *glue_arguments(pretrained, glue_folder, tmp_path / "out", task=["rte"], bi_encoder=True, mnli_init=True)
        )
    assert not (tmp_path / "out").exists()


@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_loss_is_that_of_sentence_transformers(pairs):
    first, second, labels = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    # Unit vectors in the plane.
    embeddings = [torch.stack([angle.cos(), angle.sin()], dim=1) for angle in (first, second)]
    theirs = CoSENTLoss(None).compute_loss_from_embeddings(embeddings, labels)
    ours = cosent_loss(torch.cosine_similarity(*embeddings), labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_is_better(pairs):
    cosines, alike = (np.array(column) for column in zip(*pairs, strict=True))
    cosines = cosines / 5

    def right(threshold):
        return ((cosines > threshold) == alike).sum()

    tried = [-2, *np.unique(cosines)]
    assert right(best_threshold(cosines, alike)) == max(right(threshold) for threshold in tried)
