"""What only an accelerator shows; run with `-m gpu`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, pipeline

from mobilebert_hf import MobileBertConfig, MobileBertForQuestionAnswering, fold
from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.distillation import pretrain as pretraining
from mobilebert_hf.distillation import run as distillation
from mobilebert_hf.models.packing import PACKED
from mobilebert_hf.recipe import parse_recipe

from .data.helpers import write_corpus
from .distillation.encoders import run_distillation, save_teacher
from .helpers import paper_arguments, pretraining_model, training_logs
from .invariant import test_invariant
from .workshop import RECIPES, Workshop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
ANSWERER = str(Path(__file__).parent / "fixtures" / "question_answering" / "model")


@pytest.mark.parametrize("family", ["IBBert", "MobileBert"])
def test_kernels_agree_and_compile_without_graph_breaks(family, tiny_tokenizer, tiny_examples):
    batch = PretrainingCollator(tiny_tokenizer)([tiny_examples["train"][index] for index in range(8)])
    inputs = {name: batch[name].cuda() for name in ("input_ids", "attention_mask", "token_type_ids")}
    # Flex attention takes heads of 16 and more there.
    model = pretraining_model(family, tiny_tokenizer, intra_bottleneck_size=128).cuda().eval()
    with torch.no_grad():
        expected = model(**inputs).prediction_logits
        for kernel in ("eager", "flex_attention"):
            model.set_attn_implementation(kernel)
            torch.testing.assert_close(model(**inputs).prediction_logits, expected, rtol=1e-3, atol=1e-3)
        model.set_attn_implementation("sdpa")
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(**inputs).prediction_logits, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def make_trainer(tiny_tokenizer, tiny_examples, tmp_path):
    def make(**arguments):
        return DistillationTrainer(
            pretraining_model("MobileBert", tiny_tokenizer),
            pretraining_model("IBBert", tiny_tokenizer),
            paper_arguments(tmp_path, use_cpu=False, **arguments),
            train_dataset=tiny_examples["train"],
            eval_dataset=tiny_examples["validation"],
            data_collator=PretrainingCollator(tiny_tokenizer),
        )

    return make


def test_distillation_in_bfloat16_with_a_bfloat16_teacher(make_trainer):
    trainer = make_trainer(transfer_steps=60, distillation_steps=20, bf16=True)
    assert trainer.teacher.model.dtype == torch.bfloat16
    trainer.train()
    logs = [line for line in training_logs(trainer) if "layer_0/feature_map" in line]
    assert logs[-1]["layer_0/feature_map"] < logs[0]["layer_0/feature_map"]
    assert trainer.evaluate()["eval_masked_lm_loss"] > 0


def test_compiled_layers_learn_what_others_do(make_trainer):
    losses = []
    for options in ({}, {"torch_compile": True}):
        trainer = make_trainer(transfer_steps=9, distillation_steps=4, teacher_dtype="float32", **options)
        trainer.train()
        losses.append([line["loss"] for line in training_logs(trainer)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("recipe", ["distill", "pretrain"])
def test_every_step_is_as_on_the_cpu(recipe, tmp_path):
    workshop = test_invariant.make_workshop(tmp_path)
    lines = test_invariant.run(workshop, tmp_path / "run", recipe, "one", use_cpu=False)
    test_invariant.compare(recipe, lines, 1e-3)


def test_the_recipes_for_a_gpu(tmp_path, tiny_tokenizer):
    """As they are, but for steps, text and vocabulary; the student's second run goes on from a checkpoint."""
    corpus = write_corpus(tmp_path / "corpus.txt", documents=1200)
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def run(recipe, module, name, **options):
        common = {"corpus": corpus, "logging_steps": 2, "output_dir": tmp_path / name, "report_to": "none"}
        words = [str(word) for name, value in {**common, **options}.items() for word in (f"--{name}", value)]
        config = RECIPES / f"{name}_gpu.yaml"
        recipe(*parse_recipe(module.RECIPE_ARGUMENTS, ["--config", str(config), *words]))
        return json.loads((tmp_path / name / "eval_results.json").read_text())

    run(pretraining.pretrain, pretraining, "pretrain", tokenizer=tmp_path / "tokenizer", max_steps=10)
    steps = {"transfer_steps": 12, "distillation_steps": 8, "save_steps": 5, "teacher": tmp_path / "pretrain"}
    whole = run(distillation.distill, distillation, "distill_ib_bert", **steps)
    assert {f"eval_layer_{layer}/attention" for layer in range(12)} <= whole.keys()
    (tmp_path / "distill_ib_bert" / "checkpoint-20").rename(tmp_path / "lost")
    again = run(distillation.distill, distillation, "distill_ib_bert", **steps)
    assert again["eval_masked_lm_loss"] == pytest.approx(whole["eval_masked_lm_loss"], rel=1e-2)

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
    BertForMaskedLM(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    options = {"teacher": tmp_path / "bert", "distillation_steps": 20}
    similar = run(distillation.distill, distillation, "distill", **options)
    assert similar["eval_layer_0/similarity"] > 0.5


def test_fsdp2s_configuration_trains_on_one_gpu(tmp_path, tiny_corpus):
    workshop = Workshop(tmp_path, tiny_corpus)
    config = workshop.write("pretrain", **workshop.pretraining(use_cpu=False, max_steps=4))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    launcher += ["--config_file", str(RECIPES / "accelerate" / "fsdp2.yaml")]
    finished = workshop.run(*launcher, str(RECIPES / "pretrain.py"), "--config", str(config))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert 0 < json.loads((Path(workshop.teacher) / "eval_results.json").read_text())["eval_masked_lm_loss"] < 12


def test_the_steps_are_planned_to_the_minutes(tmp_path, tiny_corpus, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    run_distillation(teacher, tiny_corpus, tmp_path, minutes=0.5, logging_steps=100, use_cpu=False)
    assert 0.3 < json.loads((tmp_path / "student" / "results.json").read_text())["minutes"] < 0.8


def test_folded_and_packed_models_agree():
    torch.manual_seed(0)
    model = MobileBertForQuestionAnswering(MobileBertConfig(num_hidden_layers=3)).cuda().eval()
    mask = (torch.arange(40) < torch.tensor([[40], [7], [23]])).long().cuda()
    inputs = {"input_ids": torch.randint(5, 1000, (3, 40)).cuda() * mask, "attention_mask": mask}
    with torch.no_grad():
        expected = model(**inputs).start_logits[mask.bool()]
        folded = fold(model)
        for kernel in ("sdpa", PACKED):
            folded.set_attn_implementation(kernel)
            torch.testing.assert_close(folded(**inputs).start_logits[mask.bool()], expected, rtol=1e-4, atol=1e-4)


def test_overflow_of_float16_is_an_error():
    model = MobileBertForQuestionAnswering(MobileBertConfig(num_hidden_layers=2)).cuda().eval()
    torch.nn.init.constant_(model.mobilebert.encoder.layer[0].output.bottleneck.LayerNorm.weight, 1e7)
    with pytest.raises(FloatingPointError, match="overflowed float16"), torch.autocast("cuda", torch.float16):
        model(torch.full((1, 8), 5, device="cuda"))


def test_the_pipeline_answers_as_on_the_cpu():
    question = {"question": "Where?", "context": "The river begins in the mountain, and the engine is in the city."}
    gpu, cpu = (pipeline("question-answering", model=ANSWERER, device=device)(**question) for device in (0, "cpu"))
    assert gpu.pop("score") == pytest.approx(cpu.pop("score"), rel=1e-3)
    assert gpu == cpu
