"""The distillation trainer's losses and gradients, against an independent computation and the original's."""

import copy

import numpy as np
import pytest
import torch

from mobilebert_hf import IBBertConfig, IBBertForPreTraining, MobileBertConfig, MobileBertForPreTraining

from ..helpers import by_our_names, pretraining_model, training_logs
from ..models.helpers import FIXTURES, Original, assert_close
from .helpers import (
    LAYERS,
    TERMS,
    WEIGHTS,
    backward,
    enter_stage,
    gradients,
    in_full,
    independent_transfer_terms,
)

# ---- the objectives


def independent_loss(stage, student, teacher, batch, alpha=0.5, temperature=1.0):
    """All layers' transfer losses and distillation, each multiplied by whether it counts in the stage."""
    student, teacher = in_full(student, batch), in_full(teacher, batch)
    lengths = batch["attention_mask"].sum(1).tolist()
    loss = 0.0
    for layer in range(LAYERS):
        terms = independent_transfer_terms(student, teacher, layer, lengths)
        gate = float(layer in stage.transfer_layers)
        loss = loss + gate * sum(WEIGHTS[name] * value for name, value in terms.items()) / LAYERS
    chosen = batch["labels"] != -100
    logits, teacher_logits = student.prediction_logits[chosen], teacher.prediction_logits[chosen]
    target = (teacher_logits / temperature).softmax(-1)
    hard = -logits.log_softmax(-1)[range(len(logits)), batch["labels"][chosen]].mean()
    soft = (target * (target.log() - (logits / temperature).log_softmax(-1))).sum(-1).mean() * temperature**2
    sentences = student.seq_relationship_logits.log_softmax(-1)
    sentence = -sentences[range(len(sentences)), batch["next_sentence_label"]].mean()
    return loss + float(stage.use_distillation_loss) * (alpha * hard + (1 - alpha) * soft + sentence)


STAGES = [
    *(("progressive", freezing, index) for freezing in ("hard", "soft") for index in range(LAYERS + 1)),
    ("joint", "hard", 0),
    ("joint", "hard", 1),
    ("auxiliary", "hard", 0),
]


@pytest.mark.parametrize(("strategy", "freezing", "index"), STAGES)
def test_a_stage_equals_both_networks_run_in_full(make_trainer, batch, strategy, freezing, index):
    trainer = make_trainer(strategy=strategy, freezing=freezing)
    student = copy.deepcopy(trainer.model).eval()
    stage = enter_stage(trainer, index)
    loss, actual = backward(trainer, batch)
    expected_loss = independent_loss(stage, student, copy.deepcopy(trainer.teacher.model), batch)
    expected_loss.backward()
    assert_close(loss, expected_loss.detach())
    expected = gradients(student)
    largest = max(gradient.abs().max() for gradient in expected.values())
    learning = {
        id(parameter)
        for group in trainer.optimizer.param_groups
        if stage.lr_scales[group["name"]] > 0
        for parameter in group["params"]
    }
    assert learning
    for name, parameter in trainer.model.named_parameters():
        if id(parameter) in learning:
            assert (actual[name] - expected[name]).abs().max() <= 1e-5 * largest, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.3, 2.0), (1.0, 1.0)])
def test_alpha_and_temperature_reach_the_loss(make_trainer, batch, alpha, temperature):
    trainer = make_trainer(alpha=alpha, temperature=temperature)
    stage = enter_stage(trainer, LAYERS)
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)
        assert_close(loss, independent_loss(stage, trainer.model, trainer.teacher.model, batch, alpha, temperature))


@pytest.mark.parametrize("counted", TERMS)
def test_each_weight_reaches_its_term(make_trainer, batch, counted):
    trainer = make_trainer(**{f"{name}_weight": 7.0 if name == counted else 0.0 for name in TERMS})
    enter_stage(trainer, 1)
    trainer.model.eval()
    with torch.no_grad():
        lengths = batch["attention_mask"].sum(1).tolist()
        networks = (in_full(network, batch) for network in (trainer.model, trainer.teacher.model))
        terms = independent_transfer_terms(*networks, 1, lengths)
        assert_close(trainer.compute_loss(trainer.model, batch), 7.0 * terms[counted] / LAYERS)


# ---- the original's numbers


@pytest.fixture(scope="module")
def original():
    return {name: np.load(FIXTURES / f"{name}_teacher_student_tame.npz") for name in ("losses", "grads")}


@pytest.fixture
def original_trainer(make_trainer):
    def network(name, config, architecture):
        recorded = Original(name)
        model = architecture(config(**recorded.config_fields()))
        model.load_state_dict(recorded.state_dict())
        return model

    return make_trainer(
        network("student_tame", MobileBertConfig, MobileBertForPreTraining),
        network("teacher", IBBertConfig, IBBertForPreTraining),
    )


@pytest.fixture(scope="module")
def original_batch(original):
    case = {
        name: torch.from_numpy(original["losses"][f"full/{name}"]).long()
        for name in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids")
    }
    predictions = torch.from_numpy(original["losses"]["full/masked_lm_weights"]).bool()
    labels = torch.full_like(case["input_ids"], -100)
    labels[predictions.nonzero()[:, 0], case["masked_lm_positions"][predictions]] = case["masked_lm_ids"][predictions]
    return {
        "input_ids": case["input_ids"],
        "attention_mask": case["input_mask"],
        "token_type_ids": case["segment_ids"],
        "labels": labels,
        "next_sentence_label": torch.from_numpy(original["losses"]["full/next_sentence_labels"]).long().flatten(),
    }


def check_original_gradients(actual, original, case):
    """Within 1e-5 of each variable's largest entry, or of 1e-6 of the largest of all.

    The recorded numbers are float32 with errors up to 2e-6 of the largest entry of a variable; gradients that cancel
    out, such as a key bias', are nothing but such errors of the large terms they are made of.
    """
    prefix = f"full/{case}/"
    arrays = original["grads"]
    expected = by_our_names({k.removeprefix(prefix): arrays[k] for k in arrays.files if k.startswith(prefix)})
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        error = (actual[name] - gradient).abs().max()
        assert error <= max(1e-5 * gradient.abs().max(), 1e-6 * largest), name
    assert not any(actual[name].any() for name in actual.keys() - expected.keys())


@pytest.mark.parametrize("layer", range(LAYERS))
def test_transfer_equals_the_original(original_trainer, original_batch, original, layer):
    """Up to the teacher's entropy, which the original leaves in and which has no gradient."""
    original_trainer.state.global_step = original_trainer.strategy.boundaries[layer]
    loss, actual = backward(original_trainer, original_batch)
    losses = original["losses"]
    entropy = losses["full/unweighted/teacher_attention_entropy"][layer]
    expected = losses["full/weighted/total_corrected"][layer] - entropy / LAYERS
    assert loss.item() == pytest.approx(expected, rel=2e-6)
    check_original_gradients(actual, original, f"transfer_corrected/layer_{layer}")


def test_distillation_equals_the_original(original_trainer, original_batch, original):
    original_trainer.state.global_step = original_trainer.strategy.boundaries[LAYERS]
    loss, actual = backward(original_trainer, original_batch)
    losses = original["losses"]
    real = losses["full/masked_lm_weights"].flatten() > 0
    teacher = torch.from_numpy(losses["full/pretrain_ratio0.5_temp1/teacher_mlm_logits"][real])
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean().item()
    expected = losses["full/pretrain_ratio0.5_temp1/loss"] - 0.5 * entropy
    assert loss.item() == pytest.approx(expected, rel=4e-6), "the original divides by the weights' sum plus 1e-5"
    check_original_gradients(actual, original, "pretrain_ratio0.5_temp1")


# ---- what is computed


@pytest.mark.parametrize("freezing", ["hard", "soft"])
@pytest.mark.parametrize("index", range(LAYERS + 1))
def test_nothing_runs_above_the_depth_nor_learns_below_the_learning_layer(make_trainer, batch, freezing, index):
    trainer = make_trainer(freezing=freezing)
    stage = enter_stage(trainer, index)
    ran, inputs, materialized, predicted = [], [], [], []

    def record(layer, args, options):
        ran.append(layer)
        inputs.append(args[0])
        materialized.append(options["materialize"])

    for network in (trainer.teacher.model, trainer.model):
        for layer in network.mobilebert.encoder.layer:
            layer.register_forward_pre_hook(record, with_kwargs=True)
        network.cls.predictions.register_forward_pre_hook(lambda head, args: predicted.append(len(args[0])))
    backward(trainer, batch)
    assert materialized == 2 * [layer in stage.transfer_layers for layer in range(stage.depth)]
    assert predicted == ([(batch["labels"] != -100).sum()] * 2 if stage.use_distillation_loss else []), (
        "masked positions alone"
    )
    depth = stage.depth
    expected = [
        layer
        for network in (trainer.teacher.model, trainer.model)
        for layer in network.mobilebert.encoder.layer[:depth]
    ]
    assert ran == expected, "each layer up to the depth, once"
    teacher_inputs, student_inputs = inputs[:depth], inputs[depth:]
    assert all(states.is_inference() for states in teacher_inputs)
    lowest = {"hard": index, "soft": 0}[freezing] if index < LAYERS else -1
    assert [states.requires_grad for states in student_inputs] == [layer > lowest for layer in range(depth)]


# ---- arguments


def test_the_teacher_may_be_of_another_dtype(make_trainer):
    trainer = make_trainer(teacher_dtype="bfloat16", transfer_steps=3, distillation_steps=1)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.teacher.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert np.isfinite([line["loss"] for line in training_logs(trainer)]).all()


@pytest.mark.parametrize("multiplies_in_bfloat16", [True, False])
def test_the_teacher_is_of_bfloat16_where_the_hardware_is_made_for_it(
    make_trainer, monkeypatch, multiplies_in_bfloat16
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": multiplies_in_bfloat16})
    expected = torch.bfloat16 if multiplies_in_bfloat16 else torch.float32
    assert make_trainer(teacher_dtype="auto").teacher.model.dtype == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_dtype": "int8"}, "teacher_dtype='int8' is not a floating dtype"),
        ({"teacher_dtype": "half a float"}, "teacher_dtype='half a float' is not a floating dtype"),
        ({"transfer_steps": 2}, "transfer_steps is 2, but must be at least one for each of 3 layers"),
        ({"distillation_steps": -1}, "distillation_steps is -1"),
        ({"strategy": "sudden"}, "'sudden', but must be one of auxiliary, joint, parallel, progressive"),
        ({"freezing": "warm"}, "freezing is 'warm', but must be one of hard, soft"),
        ({"distillation_warmup_ratio": 1.5}, r"warmup_ratio is 1\.5"),
    ],
)
def test_bad_arguments_are_refused_before_training(make_trainer, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


def test_a_teacher_that_does_not_match_is_refused_before_training(make_trainer, tiny_tokenizer):
    teacher = pretraining_model("IBBert", tiny_tokenizer, num_hidden_layers=2)
    with pytest.raises(ValueError, match="num_hidden_layers: student 3, teacher 2"):
        make_trainer(teacher=teacher)
