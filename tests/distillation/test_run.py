"""Whole runs, from a teacher's folder and a corpus to a student that is used as its teacher was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, pipeline

from mobilebert_hf.distillation import DistillationArguments, planning, student_shape
from mobilebert_hf.distillation.planning import readable_characters
from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS
from mobilebert_hf.machine import describe_machine
from mobilebert_hf.recipe import parse_recipe

from ..helpers import training_arguments
from .encoders import MEAN, build, run_distillation, save_teacher

TEXTS = ["a dog", "the cat sat on the mat and saw another cat"]


def encode(folder, texts=TEXTS, **options):
    encoder = SentenceTransformer(str(folder), device="cpu")
    return encoder.encode(texts, convert_to_tensor=True, **options)


def results(folder):
    return json.loads((folder / "student" / "results.json").read_text())


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("sentence_encoder")
    teacher = save_teacher(folder / "teacher", tiny_tokenizer, sentence_encoder=True)
    trainer = run_distillation(teacher, tiny_corpus, folder)
    return folder, trainer


def test_a_sentence_encoders_student_gives_its_embeddings(sentence_encoder):
    folder, trainer = sentence_encoder
    found, expected = (encode(folder / name) for name in ("student", "teacher"))
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9
    assert results(folder)["evaluation"]["eval_pooled_similarity"] > 0.95
    assert trainer.state.global_step == 30


def test_sentence_transformers_finds_its_files(sentence_encoder):
    folder = sentence_encoder[0] / "student"
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert MEAN.items() <= pooling.items()
    settings = {"max_seq_length": 24, "do_lower_case": False}
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == settings


def test_stock_transformers_loads_the_student(sentence_encoder):
    folder = sentence_encoder[0] / "student"
    stock = transformers.MobileBertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(
        stock(**inputs).last_hidden_state,
        AutoModel.from_pretrained(folder)(**inputs).last_hidden_state,
        rtol=1e-4,
        atol=1e-5,
    )


def test_students_are_pruned_copies_by_default(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, sentence_encoder=True, num_hidden_layers=4)
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, size="auto", config_overrides='{"embedding_size": 16}')
    assert trainer.teacher.mapping == (0, 3)
    [stage] = trainer.strategy.stages
    assert stage.transfer_layers == (1,), "only the last layer is compared"
    found = results(tmp_path)
    assert found["initialization"]["layer_similarity"][-1] > 0.9
    assert found["evaluation"]["eval_layer_1/similarity"] > 0.9
    stock = transformers.MobileBertModel.from_pretrained(tmp_path / "student", add_pooling_layer=False).eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "student")(TEXTS, padding=True, return_tensors="pt")
    expected = AutoModel.from_pretrained(tmp_path / "student")(**inputs).last_hidden_state
    # Two of stock's norms have another epsilon.
    torch.testing.assert_close(stock(**inputs).last_hidden_state, expected, rtol=1e-3, atol=1e-4)


def test_no_text_is_read_that_there_is_no_time_for(tmp_path):
    teacher = build("Bert")
    shape = student_shape(teacher)

    def limit(**changes):
        arguments = training_arguments(DistillationArguments, tmp_path, **changes)
        return readable_characters(arguments, shape.config, teacher)

    assert limit() is None
    assert limit(minutes=0.1) < limit(minutes=1) < limit(minutes=2)


def test_its_recipe_makes_it_again(sentence_encoder, tmp_path):
    recipe = sentence_encoder[0] / "student" / "recipe.yaml"
    student, data, training = parse_recipe(RECIPE_ARGUMENTS, ["--config", str(recipe), "--output_dir", str(tmp_path)])
    assert student.teacher == str(sentence_encoder[0] / "teacher")
    assert data.mlm_probability == 0.15
    assert training.distillation_steps == 30


def test_table_and_card_tell_what_was_made(sentence_encoder):
    folder = sentence_encoder[0] / "student"
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "sentence-transformers"
    measured = results(sentence_encoder[0])
    assert f"{measured['evaluation']['eval_pooled_similarity']:.3f}" in card.text
    assert f"minutes on {describe_machine()['cpu']}." in card.text
    model = AutoModel.from_pretrained(folder)
    assert measured["student"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert measured["student"]["parameters"] < measured["teacher"]["parameters"]


def test_a_masked_lm_teachers_student_fills_masks(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, head="ForMaskedLM")
    run_distillation(teacher, tiny_corpus, tmp_path)
    fill = pipeline("fill-mask", str(tmp_path / "student"), device="cpu")
    assert len(fill(f"the {fill.tokenizer.mask_token} sat", top_k=3)) == 3
    measured = results(tmp_path)
    assert measured["initialization"]["logit_variance"] > 0.3
    assert measured["evaluation"]["eval_layer_2/similarity"] > 0.9
    assert not (tmp_path / "student" / "modules.json").exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"dtype": torch.bfloat16},
        {"max_shard_size": "10KB"},
        {"hidden_size": 36, "num_attention_heads": 3},
        {"vocab_size": 256},
        {"family": "Roberta", "max_position_embeddings": 50},
        {"family": "DistilBert"},
        {"family": "ModernBert"},
    ],
    ids=str,
)
def test_unusual_teachers(tmp_path, tiny_corpus, tiny_tokenizer, odd):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, **odd)
    run_distillation(teacher, tiny_corpus, tmp_path, steps=20)
    if "max_shard_size" in odd:
        assert len(list(teacher.glob("*.safetensors"))) > 2
    student = AutoModel.from_pretrained(tmp_path / "student")
    assert student.dtype == torch.float32
    assert student.config.vocab_size == odd.get("vocab_size", len(tiny_tokenizer))
    assert results(tmp_path)["evaluation"]["eval_layer_2/similarity"] > 0.8


def test_a_teacher_that_pads_on_the_left(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(teacher, padding_side="left")
    tokenizer.save_pretrained(teacher)
    run_distillation(teacher, tiny_corpus, tmp_path, steps=2)
    assert AutoTokenizer.from_pretrained(tmp_path / "student").padding_side == "right"


def test_both_are_compared_in_float32(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, steps=2, teacher_dtype="bfloat16")
    assert trainer.teacher.model.dtype == trainer.model.dtype == torch.float32
    loaded = AutoModel.from_pretrained(teacher).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.teacher.model.state_dict().items())


def test_layers_mapped_and_relations(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, layers="1,2", relation_weight=1.0)
    assert AutoModel.from_pretrained(tmp_path / "student").config.num_hidden_layers == 2
    logged = [line["layer_1/relation"] for line in trainer.state.log_history if "layer_1/relation" in line]
    assert sum(logged[-5:]) < sum(logged[:5])


def test_an_interrupted_run_goes_on_as_it_was_planned(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "plan.json").write_text('{"transfer_steps": 0, "distillation_steps": 7}')
    trainer = run_distillation(teacher, tiny_corpus, tmp_path, minutes=1)
    assert trainer.state.global_step == 7


def test_the_steps_are_planned_to_the_minutes(tmp_path, tiny_corpus, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(planning, "time_token", lambda *_: 0.0)
    monkeypatch.setattr(planning, "time_update", lambda *_: 2.0)
    trainer = run_planned(tmp_path, tiny_corpus, tiny_tokenizer, minutes=1)
    most = 60 * (1 - planning.RESERVE) / (2.0 * planning.OVERHEAD)  # less what teacher and data have taken
    assert most / 4 < trainer.state.global_step <= most


@pytest.mark.slow
def test_a_run_takes_the_minutes_that_it_was_given(tmp_path, tiny_corpus, tiny_tokenizer):
    run_planned(tmp_path, tiny_corpus, tiny_tokenizer, minutes=0.25)
    assert 3 < results(tmp_path)["minutes"] * 60 < 60


def run_planned(folder, corpus, tokenizer, minutes):
    teacher = save_teacher(folder / "teacher", tokenizer)
    trainer = run_distillation(teacher, corpus, folder, minutes=minutes, logging_steps=100)
    plan = json.loads((folder / "student" / "plan.json").read_text())
    assert plan["distillation_steps"] == trainer.state.global_step
    return trainer


def test_what_cannot_be_done_is_refused(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    for wrong, message in (
        ({"task": "cola", "task_data": "x"}, "task='cola' is not known: expected stsb"),
        ({"task": "stsb"}, "needs task_data"),
        ({"size": "huge"}, "size='huge' is not one of"),
        ({"objective": "logits"}, "objective='logits' is not one of auto, pretraining, masked_lm, pooled, features"),
        ({"minutes": -1}, "minutes is -1: expected"),
        ({"streaming": True}, "streaming=True"),
        ({"max_seq_length": 100}, "reads at most 64 tokens, but the student is to read 100"),
    ):
        with pytest.raises(ValueError, match=message):
            run_distillation(teacher, tiny_corpus, tmp_path, **wrong)
    with pytest.raises(FileNotFoundError, match="data file at"):
        run_distillation(teacher, tiny_corpus, tmp_path, task="stsb", task_data=str(tmp_path / "student"))


@pytest.mark.slow
def test_one_command_on_two_processes(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer, sentence_encoder=True, num_hidden_layers=2)
    command = [
        str(Path(sys.executable).with_name("mobilebert-hf")),
        "distill",
        "--teacher",
        str(teacher),
        "--minutes",
        "1",
    ]
    command += ["--corpus", str(tiny_corpus), "--output", str(tmp_path / "student"), "--processes", "2"]
    command += ["--max_seq_length", "24", "--validation_fraction", "0.1", "--cache_dir", str(tmp_path / "cache")]
    command += ["--report_to", "none", "--config_overrides", '{"intra_bottleneck_size": 16, "embedding_size": 16}']
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "cosine, pooled" in run.stdout
    assert results(tmp_path)["minutes"] < 2
    assert results(tmp_path)["processes"] == 2
