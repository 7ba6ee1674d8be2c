"""Distillation: its objectives against an independent computation and the original, and real short runs."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from mobilebert_hf import IBBertConfig, IBBertForPreTraining, MobileBertConfig, MobileBertForPreTraining
from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation.trainer import DistillationArguments, DistillationTrainer, without_dropout

from ..helpers import (
    AtEachStep,
    by_our_names,
    fixed_masks,
    moved,
    pad,
    pretraining_model,
    snapshot,
    training_arguments,
    training_logs,
)
from ..models.helpers import FIXTURES, Original, assert_close

TERMS = ("feature_map", "mean", "variance", "attention")
WEIGHTS = dict(zip(TERMS, (100.0, 5000.0, 5.0, 1.0), strict=True))
LAYERS = 3


@pytest.fixture(scope="module")
def rows(tiny_examples, tiny_tokenizer):
    return fixed_masks(tiny_examples["validation"], tiny_tokenizer)


@pytest.fixture(scope="module")
def batch(rows):
    batch = pad(rows[:8])
    assert not batch["attention_mask"].all(), "without padding this shows little"
    return batch


@pytest.fixture
def make_trainer(tmp_path, tiny_examples, tiny_tokenizer):
    """A trainer of a new student (or `model`) with dropout, for 8 steps a layer and 8 of distillation."""

    def make(model=None, teacher=None, callbacks=None, eval_dataset=None, examples=200, **arguments):
        steps = {"transfer_steps": 8 * LAYERS, "distillation_steps": 8}
        return DistillationTrainer(
            model or pretraining_model("MobileBert", tiny_tokenizer, hidden_dropout_prob=0.1),
            teacher or pretraining_model("IBBert", tiny_tokenizer),
            training_arguments(DistillationArguments, tmp_path, **{**steps, **arguments}),
            train_dataset=tiny_examples["train"].select(range(examples)),
            eval_dataset=eval_dataset,
            data_collator=PretrainingCollator(tiny_tokenizer) if eval_dataset is None else pad,
            callbacks=callbacks,
        )

    return make


def enter_stage(trainer, index):
    """Takes the trainer to the first step of a stage; what does not learn there is frozen."""
    trainer.callback_handler.optimizer = trainer.create_optimizer()
    trainer.state.global_step = trainer.strategy.boundaries[index]
    trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
    return trainer.strategy.stages[index]


def backward(trainer, batch):
    """The loss and gradients of the trainer's stage, as in training."""
    trainer.model.train()
    with without_dropout(trainer.model):
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), gradients(trainer.model)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# ---- the objectives


def in_full(network, batch):
    network.set_attn_implementation("eager")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return network(**inputs, output_hidden_states=True, output_attentions=True)


def independent_transfer_terms(student, teacher, layer, lengths):
    """A layer's four terms, from hidden states and probabilities, over each example's real tokens."""
    sums = dict.fromkeys(TERMS, 0.0)
    for row, length in enumerate(lengths):
        ours, theirs = (output.hidden_states[layer + 1][row, :length] for output in (student, teacher))
        for token, target in zip(ours, theirs, strict=True):
            variance, target_variance = token.var(unbiased=False), target.var(unbiased=False)
            normalized = (token - token.mean()) / variance.sqrt() - (target - target.mean()) / target_variance.sqrt()
            sums["feature_map"] += (normalized**2).mean()
            sums["mean"] += (token.mean() - target.mean()) ** 2
            sums["variance"] += abs(variance - target_variance)
        probabilities, targets = (output.attentions[layer][row, :, :length, :length] for output in (student, teacher))
        sums["attention"] += (targets * (targets.log() - probabilities.log())).sum() / targets.shape[0]
    return {name: value / sum(lengths) for name, value in sums.items()}


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
    return loss + float(stage.pretraining) * (alpha * hard + (1 - alpha) * soft + sentence)


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
    expected_loss = independent_loss(stage, student, copy.deepcopy(trainer.teacher), batch)
    expected_loss.backward()
    assert_close(loss, expected_loss.detach())
    expected = gradients(student)
    largest = max(gradient.abs().max() for gradient in expected.values())
    learning = {
        id(parameter)
        for group in trainer.optimizer.param_groups
        if stage.rates[group["name"]] > 0
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
        assert_close(loss, independent_loss(stage, trainer.model, trainer.teacher, batch, alpha, temperature))


@pytest.mark.parametrize("counted", TERMS)
def test_each_weight_reaches_its_term(make_trainer, batch, counted):
    trainer = make_trainer(**{f"{name}_weight": 7.0 if name == counted else 0.0 for name in TERMS})
    enter_stage(trainer, 1)
    trainer.model.eval()
    with torch.no_grad():
        lengths = batch["attention_mask"].sum(1).tolist()
        networks = (in_full(network, batch) for network in (trainer.model, trainer.teacher))
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
    ran, inputs = [], []

    def record(layer, args):
        ran.append(layer)
        inputs.append(args[0])

    for network in (trainer.model, trainer.teacher):
        for layer in network.mobilebert.encoder.layer:
            layer.register_forward_pre_hook(record)
    backward(trainer, batch)
    depth = stage.depth
    expected = [
        layer for network in (trainer.model, trainer.teacher) for layer in network.mobilebert.encoder.layer[:depth]
    ]
    assert ran == expected, "each layer up to the depth, once"
    student_inputs, teacher_inputs = inputs[:depth], inputs[depth:]
    assert not any(states.requires_grad for states in teacher_inputs)
    lowest = {"hard": index, "soft": 0}[freezing] if index < LAYERS else -1
    assert [states.requires_grad for states in student_inputs] == [layer > lowest for layer in range(depth)]


# ---- real runs


def parameters_of(model, place):
    """The names of a place's parameters, a tied one only where it is first."""
    prefixes = {"embeddings": "mobilebert.embeddings.", "heads": "cls."}
    prefix = prefixes.get(place, f"mobilebert.encoder.layer.{place.removeprefix('layer_')}.")
    return {name for name, _ in model.named_parameters() if name.startswith(prefix)}


def changed_places(model, before, after):
    changed = moved(before, after)
    places = ("embeddings", *(f"layer_{layer}" for layer in range(LAYERS)), "heads")
    return {place for place in places if parameters_of(model, place) & changed}


class Boundaries(AtEachStep):
    """At the beginning of each stage and at the end: the student's weights, and each layer's weighted loss."""

    def __init__(self, batch):
        super().__init__(self.record)
        self.batch = batch
        self.weights, self.losses = [], []

    def record(self, step):
        if step not in (*self.trainer.strategy.boundaries, self.trainer.strategy.steps):
            return
        model = self.trainer.model
        self.weights.append(snapshot(model))
        with torch.no_grad():
            student, teacher = (
                in_full(copy.deepcopy(network).eval(), self.batch) for network in (model, self.trainer.teacher)
            )
            lengths = self.batch["attention_mask"].sum(1).tolist()
            terms = [independent_transfer_terms(student, teacher, layer, lengths) for layer in range(LAYERS)]
        self.losses.append([{name: WEIGHTS[name] * layer[name].item() for name in TERMS} for layer in terms])


@pytest.fixture(scope="module", params=["hard", "soft"])
def finished(request, tmp_path_factory, tiny_examples, tiny_tokenizer, batch):
    """Progressive transfer of 60 steps a layer, then 10 of distillation."""
    teacher = pretraining_model("IBBert", tiny_tokenizer)
    with torch.no_grad():
        for layer in teacher.mobilebert.encoder.layer:
            layer.attention.self.query.weight *= 8  # a random network's attention is even: nothing to learn from it
    boundaries = Boundaries(batch)
    trainer = DistillationTrainer(
        pretraining_model("MobileBert", tiny_tokenizer),
        teacher,
        training_arguments(
            DistillationArguments,
            tmp_path_factory.mktemp("progressive"),
            freezing=request.param,
            transfer_steps=60 * LAYERS,
            distillation_steps=10,
        ),
        train_dataset=tiny_examples["train"],
        data_collator=PretrainingCollator(tiny_tokenizer),
        callbacks=[boundaries],
    )
    boundaries.trainer = trainer
    boundaries.teacher_before = snapshot(teacher)
    trainer.train()
    return trainer, boundaries, request.param


def test_each_stage_brings_its_layer_closer_to_the_teacher(finished):
    _, boundaries, _ = finished
    assert len(boundaries.losses) == LAYERS + 2
    for layer in range(LAYERS):
        before, after = (boundaries.losses[index][layer] for index in (layer, layer + 1))
        assert sum(after.values()) < 0.7 * sum(before.values())
        for name in TERMS:
            assert after[name] < before[name], (layer, name)


def test_frozen_places_do_not_move_by_a_bit(finished):
    trainer, boundaries, freezing = finished
    for layer, (before, after) in enumerate(itertools.pairwise(boundaries.weights[: LAYERS + 1])):
        lowest = {"hard": layer, "soft": 0}[freezing]
        learning = {f"layer_{index}" for index in range(lowest, layer + 1)}
        assert changed_places(trainer.model, before, after) == learning
        for place in learning:
            assert parameters_of(trainer.model, place) <= moved(before, after), "all of a learning layer moves"


def test_everything_moves_in_the_distillation_stage(finished):
    trainer, boundaries, _ = finished
    before, after = boundaries.weights[LAYERS:]
    assert len(changed_places(trainer.model, before, after)) == LAYERS + 2


def test_the_teacher_stays_what_it_was(finished):
    trainer, boundaries, _ = finished
    assert not moved(boundaries.teacher_before, snapshot(trainer.teacher))
    assert not any(module.training for module in trainer.teacher.modules())
    assert not any(parameter.requires_grad for parameter in trainer.teacher.parameters())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())


def test_nothing_stays_frozen_after_training(make_trainer):
    trainer = make_trainer(transfer_steps=3, distillation_steps=0)
    trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_logs_carry_the_terms_of_the_stage(finished):
    trainer, _, _ = finished
    distillation = {"masked_lm_loss", "masked_lm_distillation", "next_sentence_loss"}
    logs = training_logs(trainer)
    assert len(logs) == trainer.strategy.steps == trainer.args.max_steps
    usual = {"loss", "grad_norm", "learning_rate", "epoch", "step", "stage"}
    for step, line in enumerate(logs):
        index, stage, _ = trainer.strategy.position(step)
        terms = {f"layer_{layer}/{name}" for layer in stage.transfer_layers for name in TERMS}
        assert line["stage"] == index
        assert line.keys() - usual == terms | (distillation if stage.pretraining else set())
        if stage.pretraining:
            mixed = (line["masked_lm_loss"] + line["masked_lm_distillation"]) / 2 + line["next_sentence_loss"]
        else:
            mixed = sum(WEIGHTS[name] * line[f"layer_{index}/{name}"] for name in TERMS) / LAYERS
        assert line["loss"] == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize("strategy", ["progressive", "joint", "auxiliary"])
def test_every_place_learns_at_the_strategys_rate(make_trainer, strategy):
    rates = []
    recorder = AtEachStep(
        lambda step: rates.append({group["name"]: group["lr"] for group in trainer.optimizer.param_groups})
    )
    trainer = make_trainer(
        strategy=strategy, transfer_steps=6, distillation_steps=6, learning_rate=0.01, callbacks=[recorder]
    )
    assert trainer.args.max_steps == 12
    trainer.train()
    expected = [{p: 0.01 * rate for p, rate in trainer.strategy.rates(step).items()} for step in range(13)]
    assert rates == [pytest.approx(line) for line in expected]
    logged = [line["learning_rate"] for line in training_logs(trainer)]
    assert logged == pytest.approx([max(line.values()) for line in expected[:12]])


def test_moments_are_reset_at_the_beginning_of_each_stage(make_trainer):
    counts = []

    def count(step):
        layer = trainer.model.mobilebert.encoder.layer[0]
        state = trainer.optimizer.state.get(next(iter(layer.parameters())), {})
        counts.append(int(state.get("step", 0)))

    trainer = make_trainer(transfer_steps=9, distillation_steps=3, callbacks=[AtEachStep(count)])
    trainer.train()
    # Seen before the reset of the step that begins: 3 steps a stage.
    assert counts == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("freezing", "save_steps", "use_lamb"), [("hard", 11, False), ("soft", 8, False), ("soft", 21, True)]
)
def test_a_resumed_run_ends_with_the_same_weights(make_trainer, tmp_path, freezing, save_steps, use_lamb):
    """From the middle of a stage and from its very beginning; an epoch has 5 steps."""
    options = {"freezing": freezing, "use_lamb": use_lamb, "save_strategy": "steps", "save_steps": save_steps}
    whole = make_trainer(examples=40, **options)
    whole.train()
    resumed = make_trainer(examples=40, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{save_steps}"))
    assert resumed.state.global_step == whole.state.global_step == 8 * LAYERS + 8
    assert not moved(snapshot(whole.model), snapshot(resumed.model))


def test_dropout_is_off_in_training_and_back_afterwards(make_trainer):
    def probabilities(model):
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    seen = []
    recorder = AtEachStep(lambda step: seen.append((probabilities(trainer.model), trainer.model.training)))
    trainer = make_trainer(transfer_steps=3, distillation_steps=1, callbacks=[recorder])
    before = probabilities(trainer.model)
    assert 0.1 in before
    trainer.train()
    assert not any(any(values) for values, _ in seen)
    assert all(training for _, training in seen[1:])
    assert probabilities(trainer.model) == before


def test_dropout_is_back_after_an_interruption(make_trainer):
    model = make_trainer().model
    before = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    with pytest.raises(KeyboardInterrupt), without_dropout(model):
        raise KeyboardInterrupt
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == before


def test_evaluation_adds_every_layers_terms(make_trainer, rows):
    trainer = make_trainer(eval_dataset=rows, per_device_eval_batch_size=7)
    metrics = trainer.evaluate()
    whole = pad(rows)
    with torch.no_grad():
        student, teacher = in_full(trainer.model, whole), in_full(trainer.teacher, whole)
        lengths = whole["attention_mask"].sum(1).tolist()
        for layer in range(LAYERS):
            for name, value in independent_transfer_terms(student, teacher, layer, lengths).items():
                assert metrics[f"eval_layer_{layer}/{name}"] == pytest.approx(value.item(), rel=1e-5)
    chosen = whole["labels"] != -100
    expected = nn.functional.cross_entropy(student.prediction_logits[chosen], whole["labels"][chosen])
    assert metrics["eval_masked_lm_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["eval_loss"] == metrics["eval_masked_lm_loss"] + metrics["eval_next_sentence_loss"]


# ---- arguments


def test_the_teacher_may_be_of_another_dtype(make_trainer):
    trainer = make_trainer(teacher_dtype="bfloat16", transfer_steps=3, distillation_steps=1)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.teacher.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert np.isfinite([line["loss"] for line in training_logs(trainer)]).all()


def test_on_the_cpu_the_teacher_is_of_float32(make_trainer):
    assert make_trainer().teacher.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_dtype": "int8"}, "teacher_dtype='int8' is not a floating dtype"),
        ({"teacher_dtype": "half a float"}, "teacher_dtype='half a float' is not a floating dtype"),
        ({"transfer_steps": 2}, "transfer_steps is 2, but must be at least one for each of 3 layers"),
        ({"distillation_steps": -1}, "distillation_steps is -1"),
        ({"strategy": "sudden"}, "'sudden', but must be one of auxiliary, joint, progressive"),
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
