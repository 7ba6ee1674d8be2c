"""The schedules against the original's numbers, and what has to hold for every strategy."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_hf.distillation.strategies import (
    Stage,
    Strategy,
    auxiliary,
    build_strategy,
    joint,
    parallel,
    progressive,
)
from mobilebert_hf.training.optimizer import parameter_groups

SCHEDULE = np.load(Path(__file__).parents[1] / "fixtures" / "schedule.npz")
many = settings(max_examples=50, deadline=None)


@st.composite
def strategies(draw):
    """Any strategy that can be built, of few steps."""
    layers = draw(st.integers(1, 8))
    return build_strategy(
        draw(st.sampled_from(["auxiliary", "joint", "parallel", "progressive"])),
        layers,
        draw(st.integers(max(layers, 2), 60)),
        draw(st.integers(0, 60)),
        draw(st.sampled_from(["hard", "soft"])),
        warmup_ratio=draw(st.floats(0.0, 1.0)),
        embedding_lr_scale=draw(st.floats(0.0, 2.0)),
    )


def layer_lr_scales(strategy, step):
    return [rate for group, rate in strategy.lr_scales(step).items() if group.startswith("layer_")]


def test_soft_progressive_rates_equal_the_original_at_every_step():
    strategy = progressive(4, 40, 0, "soft")
    expected = SCHEDULE["nonbinary_with_background"]
    for step in range(40):
        np.testing.assert_allclose(layer_lr_scales(strategy, step), expected[step], rtol=1e-6, err_msg=f"step {step}")
    assert not any(layer_lr_scales(strategy, 40)), "as in the original at the step after the last"


def test_hard_progressive_rates_are_those_of_the_current_layer_alone():
    strategy = progressive(4, 40, 0, "hard")
    current = np.repeat(np.eye(4), 10, axis=0)
    expected = SCHEDULE["nonbinary_with_background"][:40] * current
    np.testing.assert_allclose([layer_lr_scales(strategy, step) for step in range(40)], expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 100, 10000])
def test_the_wave_equals_the_original(steps):
    strategy = progressive(1, steps, 0, transfer_lr_scale=1.0)
    global_steps, expected = (SCHEDULE[f"background_lr_spp{steps}/{name}"] for name in ("global_step", "value"))
    inside = global_steps < steps
    assert inside.any()
    # The original divides in float32, hence the tolerance.
    actual = [strategy.lr_scales(int(step))["layer_0"] for step in global_steps[inside]]
    np.testing.assert_allclose(actual, expected[inside], rtol=0, atol=1e-6)


def test_the_linear_curve_equals_the_original_at_every_step():
    strategy = auxiliary(2, 40, warmup_ratio=0.2)
    expected = SCHEDULE["learning_rate/pretrain_stage"] / 0.0015
    actual = [strategy.lr_scales(step)["heads"] for step in range(len(expected))]
    # The original's decay is a float32 product, so its last values have an error of 1e-7 of the peak.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    assert actual[-1] == pytest.approx(1e-4, rel=1e-12), "the end of the last stage holds from there on"


@many
@given(strategies())
def test_every_step_is_in_exactly_one_stage(strategy):
    positions = [strategy.position(step) for step in range(strategy.steps)]
    assert strategy.steps == sum(stage.steps for stage in strategy.stages)
    for index, stage in enumerate(strategy.stages):
        inside = [position.step for position in positions if position.stage_index == index]
        assert inside == list(range(stage.steps))
    assert all(position.stage is strategy.stages[position.stage_index] for position in positions)
    assert positions == sorted(positions, key=lambda position: (position.stage_index, position.step))
    assert [step for step, position in enumerate(positions) if position.step == 0] == list(strategy.boundaries)


@many
@given(strategies(), st.integers(0, 1000))
def test_after_the_last_step_comes_the_end_of_the_last_stage(strategy, more):
    index, stage, step = strategy.position(strategy.steps + more)
    assert (index, stage, step) == (len(strategy.stages) - 1, strategy.stages[-1], strategy.stages[-1].steps)


@many
@given(strategies())
def test_rates_stay_in_range_and_frozen_ones_are_exactly_zero(strategy):
    for step in range(strategy.steps + 1):
        stage, rates = strategy.position(step).stage, strategy.lr_scales(step)
        assert rates.keys() == stage.lr_scales.keys()
        for group, rate in rates.items():
            assert 0.0 <= rate <= stage.lr_scales[group]
            if stage.lr_scales[group] == 0.0:
                assert rate == 0.0
        assert all(rates[f"layer_{layer}"] == 0.0 for layer in range(stage.depth, len(stage.layer_lr_scales)))


@many
@given(strategies())
def test_every_stage_changes_something_unless_it_is_a_dead_step(strategy):
    for stage, start in zip(strategy.stages, strategy.boundaries, strict=True):
        alive = [any(strategy.lr_scales(step).values()) for step in range(start, start + stage.steps)]
        # A curve that begins at 0 does so at its first step only.
        assert all(alive[1:])


@many
@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), st.sampled_from(["hard", "soft"]))
def test_progressive_goes_up_one_layer_a_stage(layers, more, distillation_steps, freezing):
    strategy = progressive(layers, layers + more, distillation_steps, freezing)
    transfer = strategy.stages[:layers]
    lengths = [stage.steps for stage in transfer]
    assert sum(lengths) == layers + more
    assert max(lengths) - min(lengths) <= 1
    assert all(longer >= shorter for longer, shorter in pairwise(lengths))
    for layer, stage in enumerate(transfer):
        assert (stage.name, stage.depth, stage.transfer_layers) == (f"layer {layer}", layer + 1, (layer,))
        below = 0.3 if freezing == "soft" else 0.0
        expected = [below] * layer + [3.0] + [0.0] * (layers - layer - 1)
        assert stage.layer_lr_scales == pytest.approx(expected, rel=1e-12)
        assert stage.embedding_lr_scale == stage.head_lr_scale == 0.0
        assert not stage.use_distillation_loss
    check_distillation(strategy.stages[layers:], layers, distillation_steps)


def check_distillation(stages, layers, steps):
    """Everything learns at factor 1 in a distillation stage, which is left out if it has no steps."""
    assert [stage.steps for stage in stages] == ([steps] if steps else [])
    for stage in stages:
        assert stage.use_distillation_loss
        assert not stage.transfer_layers
        assert stage.depth == layers
        assert set(stage.lr_scales.values()) == {1.0}
        assert stage.curve == "linear"


@many
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 40))
def test_joint_transfers_all_layers_first(layers, transfer_steps, distillation_steps):
    transfer, *rest = joint(layers, transfer_steps, distillation_steps).stages
    assert (transfer.steps, transfer.depth) == (transfer_steps, layers)
    assert transfer.transfer_layers == tuple(range(layers))
    assert transfer.layer_lr_scales == (3.0,) * layers
    assert transfer.embedding_lr_scale == transfer.head_lr_scale == 0.0
    assert not transfer.use_distillation_loss
    check_distillation(rest, layers, distillation_steps)


@many
@given(st.integers(1, 12), st.integers(2, 40), st.integers(0, 40))
def test_parallel_is_joint_after_a_half_on_the_teachers_features(layers, transfer_steps, distillation_steps):
    alone, together, *rest = parallel(layers, transfer_steps, distillation_steps, embedding_lr_scale=0.5).stages
    assert alone.steps + together.steps == transfer_steps
    assert 0 <= together.steps - alone.steps <= 1
    assert (alone.parallel, together.parallel) == (True, False)
    assert replace(alone, name=together.name, steps=together.steps, parallel=False) == together
    assert together == joint(layers, together.steps, 0, embedding_lr_scale=0.5).stages[0]
    check_distillation(rest, layers, distillation_steps)


def test_auxiliary_is_one_stage_of_everything():
    (stage,) = build_strategy("auxiliary", 3, 20, 30, warmup_ratio=0.1).stages
    assert (stage.steps, stage.depth, stage.warmup, stage.curve) == (50, 3, 5, "linear")
    assert stage.transfer_layers == (0, 1, 2)
    assert stage.use_distillation_loss
    assert set(stage.lr_scales.values()) == {1.0}


def test_build_strategy_passes_everything_on():
    assert build_strategy("joint", 3, 20, 30, "hard", 2.0, 0.1) == joint(3, 20, 30, 2.0, 0.1)
    built = build_strategy("progressive", 3, 20, 30, "hard", 2.0, 0.1)
    assert built == progressive(3, 20, 30, "hard", 2.0, warmup_ratio=0.1)


def test_scales_are_named_as_the_parameter_groups():
    from transformers import MobileBertConfig, MobileBertForPreTraining

    config = MobileBertConfig(
        vocab_size=9,
        hidden_size=16,
        embedding_size=8,
        intra_bottleneck_size=8,
        num_hidden_layers=3,
        intermediate_size=8,
    )
    groups = parameter_groups(MobileBertForPreTraining(config), 0.01, trust_ratio=True)
    assert {group["name"] for group in groups} == progressive(3, 9, 9).lr_scales(0).keys()


def stage(**changes):
    values = {
        "name": "any",
        "steps": 10,
        "depth": 2,
        "transfer_layers": (1,),
        "use_distillation_loss": False,
        "layer_lr_scales": (0.0, 1.0, 0.0),
        "embedding_lr_scale": 0.0,
        "head_lr_scale": 0.0,
        "curve": "constant",
    }
    return Stage(**{**values, **changes})


def test_a_constant_curve_is_constant():
    strategy = Strategy("any", (stage(),))
    assert {strategy.lr_scales(step)["layer_1"] for step in range(12)} == {1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: progressive(4, 3, 10), "transfer_steps is 3, but must be at least one for each of 4 layers"),
        (lambda: progressive(4, 8, -1), "distillation_steps is -1, but must be 0 or more"),
        (lambda: progressive(0, 8, 1), "num_layers is 0, but must be at least 1"),
        (lambda: progressive(4, 8, 1, "warm"), "freezing is 'warm', but must be one of hard, soft"),
        (lambda: joint(2, 0, 1), "transfer_steps is 0, but must be at least 1"),
        (lambda: joint(0, 1, 1), "num_layers is 0, but must be at least 1"),
        (lambda: auxiliary(2, 0), "steps is 0, but must be at least 1"),
        (lambda: auxiliary(2, 10, warmup_ratio=1.5), r"warmup_ratio is 1.5, but must be in \[0, 1\]"),
        (
            lambda: build_strategy("sudden", 2, 3, 4),
            "name is 'sudden', but must be one of auxiliary, joint, parallel, progr",
        ),
        (lambda: progressive(4, 8, 0).position(-1), "global_step is -1"),
        (lambda: Strategy("none", ()), "stages is"),
        (lambda: Strategy("two", (stage(), stage(layer_lr_scales=(1.0, 1.0)))), r"layer_lr_scales is \[3, 2\]"),
        (lambda: stage(depth=4), "depth is 4"),
        (lambda: stage(use_distillation_loss=True), "depth is 2, but must be 3, all layers, for distillation losses"),
        (lambda: stage(transfer_layers=(2,)), r"transfer_layers is \(2,\), but must be layers that run"),
        (lambda: stage(transfer_layers=()), "transfer_layers is"),
        (lambda: stage(layer_lr_scales=(0.0, -1.0, 0.0)), "lr_scales is .*not negative"),
        (lambda: stage(layer_lr_scales=(0.0, 0.0, 0.0)), "not all 0"),
        (lambda: stage(layer_lr_scales=(0.0, 1.0, 1.0)), "layer_lr_scales is .*do not run"),
        (lambda: stage(curve="round"), "curve is 'round', but must be one of wave, linear, constant"),
        (lambda: stage(curve="linear", warmup=11), "warmup is 11, but must be from 0 to the 10 steps"),
        (lambda: stage(curve="wave", warmup=1), "warmup is 1, but must be 0 unless the curve is linear"),
        (lambda: stage(end_factor=2.0), "end_factor is 2.0"),
    ],
)
def test_errors_name_field_value_and_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
