"""Real short runs of distillation: what learns, what stays, what is logged, and how it goes on."""

import copy
import itertools

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer
from mobilebert_hf.distillation.stage_callback import without_dropout

from ..helpers import AtEachStep, moved, pad, paper_arguments, pretraining_model, snapshot, training_logs
from .helpers import LAYERS, TERMS, WEIGHTS, in_full, independent_transfer_terms


def parameters_of(model, group):
    """The names of a group's parameters, a tied one only where it is first."""
    prefixes = {"embeddings": "mobilebert.embeddings.", "heads": "cls."}
    prefix = prefixes.get(group, f"mobilebert.encoder.layer.{group.removeprefix('layer_')}.")
    return {name for name, _ in model.named_parameters() if name.startswith(prefix)}


def changed_groups(model, before, after):
    changed = moved(before, after)
    groups = ("embeddings", *(f"layer_{layer}" for layer in range(LAYERS)), "heads")
    return {group for group in groups if parameters_of(model, group) & changed}


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
                in_full(copy.deepcopy(network).eval(), self.batch) for network in (model, self.trainer.teacher.model)
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
        paper_arguments(
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


def test_frozen_groups_do_not_move_by_a_bit(finished):
    trainer, boundaries, freezing = finished
    for layer, (before, after) in enumerate(itertools.pairwise(boundaries.weights[: LAYERS + 1])):
        lowest = {"hard": layer, "soft": 0}[freezing]
        learning = {f"layer_{index}" for index in range(lowest, layer + 1)}
        assert changed_groups(trainer.model, before, after) == learning
        for group in learning:
            assert parameters_of(trainer.model, group) <= moved(before, after), "all of a learning layer moves"


def test_everything_moves_in_the_distillation_stage(finished):
    trainer, boundaries, _ = finished
    before, after = boundaries.weights[LAYERS:]
    assert len(changed_groups(trainer.model, before, after)) == LAYERS + 2


def test_the_teacher_stays_what_it_was(finished):
    trainer, boundaries, _ = finished
    assert not moved(boundaries.teacher_before, snapshot(trainer.teacher.model))
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
    groups = ("embeddings", *(f"layer_{layer}" for layer in range(LAYERS)), "heads")
    usual = {"loss", "grad_norm", "learning_rate", "epoch", "step", "stage", "tokens_per_second", "hours_left"}
    usual |= {f"learning_rate/{group}" for group in groups}
    for step, line in enumerate(logs):
        index, stage, _ = trainer.strategy.position(step)
        terms = {f"layer_{layer}/{name}" for layer in stage.transfer_layers for name in TERMS}
        assert line["stage"] == index
        assert line.keys() - usual == terms | (distillation if stage.use_distillation_loss else set())
        if stage.use_distillation_loss:
            mixed = (line["masked_lm_loss"] + line["masked_lm_distillation"]) / 2 + line["next_sentence_loss"]
        else:
            mixed = sum(WEIGHTS[name] * line[f"layer_{index}/{name}"] for name in TERMS) / LAYERS
        assert line["loss"] == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize("strategy", ["progressive", "joint", "auxiliary"])
def test_every_group_learns_at_the_strategys_rate(make_trainer, strategy):
    learning_rate = 1e-4  # at a hundred times as much, joint transfer diverges, or does not, by how sums are rounded
    rates = []
    recorder = AtEachStep(
        lambda step: rates.append({group["name"]: group["lr"] for group in trainer.optimizer.param_groups})
    )
    trainer = make_trainer(
        strategy=strategy, transfer_steps=6, distillation_steps=6, learning_rate=learning_rate, callbacks=[recorder]
    )
    assert trainer.args.max_steps == 12
    trainer.train()
    expected = [
        {p: learning_rate * rate for p, rate in trainer.strategy.lr_scales(step).items()} for step in range(13)
    ]
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
        student, teacher = in_full(trainer.model, whole), in_full(trainer.teacher.model, whole)
        lengths = whole["attention_mask"].sum(1).tolist()
        for layer in range(LAYERS):
            for name, value in independent_transfer_terms(student, teacher, layer, lengths).items():
                assert metrics[f"eval_layer_{layer}/{name}"] == pytest.approx(value.item(), rel=1e-5)
    chosen = whole["labels"] != -100
    expected = nn.functional.cross_entropy(student.prediction_logits[chosen], whole["labels"][chosen])
    assert metrics["eval_masked_lm_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["eval_loss"] == metrics["eval_masked_lm_loss"] + metrics["eval_next_sentence_loss"]


def test_tensorboard_gets_every_value_of_the_log(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make_trainer(transfer_steps=3, distillation_steps=2, report_to=["tensorboard"])
    trainer.train()
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    seen = {}
    for tag in board.Tags()["scalars"]:
        seen[tag] = {event.step: event.value for event in board.Scalars(tag)}
    for step, line in enumerate(training_logs(trainer), 1):
        for name, value in line.items():
            if name != "step":
                assert seen[f"train/{name}"][step] == pytest.approx(value, rel=1e-6, abs=1e-12), name
    assert {"train/learning_rate/layer_2", "train/tokens_per_second", "train/layer_1/attention"} <= seen.keys()


def test_the_time_left_goes_by_the_cost_of_the_stages(make_trainer):
    """A stage in which more layers run and learn takes longer."""
    trainer = make_trainer(transfer_steps=30, distillation_steps=10)
    costs = [trainer.work(step + 1) - trainer.work(step) for step in range(40)]
    assert trainer.work(0) == 0
    assert len(set(costs)) == len(trainer.strategy.stages)
    assert costs == sorted(costs)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_take_the_same_steps(make_trainer, backend):
    losses, names = [], []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": backend}):
        trainer = make_trainer(transfer_steps=3, distillation_steps=3, **options)
        compiled = [hasattr(layer.forward, "get_compiler_config") for layer in trainer.model.mobilebert.encoder.layer]
        assert all(compiled) if options else not any(compiled)
        trainer.train()
        losses.append([line["loss"] for line in training_logs(trainer)])
        names.append([*trainer.model.state_dict()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert names[1] == names[0]
