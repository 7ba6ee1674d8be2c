"""What is read from a run's folder."""

import json

import numpy as np
import pytest

from mobilebert_hf.reporting.run_log import read_run

from .helpers import TERMS, evaluation_line, training_line, write_stages, write_state

PRETRAINING = {"masked_lm_loss": 5.0, "masked_lm_distillation": 2.0, "next_sentence_loss": 0.7}


def write_progressive(folder, lines, step=None, layers=2, weights=None):
    """12 steps: 4 for each of two layers, then 4 of distillation."""
    write_state(folder, lines, total=12, step=step)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    write_stages(folder, 4, layers, weights)


def test_the_newest_of_root_and_checkpoints_counts(tmp_path):
    for step in (20, 100):
        write_state(tmp_path / f"checkpoint-{step}", [training_line(step)], total=200)
    write_state(tmp_path / "damaged-checkpoint-150", [training_line(150)], total=200)
    run = read_run(tmp_path)
    assert (run.step, run.total_steps, run.finished) == (100, 200, False)
    write_state(tmp_path, [training_line(50)], total=50)
    assert read_run(tmp_path).step == 100, "a finished run that was made longer"
    write_state(tmp_path, [training_line(200)], total=200)
    assert read_run(tmp_path).finished


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has neither trainer_state\.json nor checkpoint"):
        read_run(tmp_path)


def test_a_run_without_log_lines_and_a_damaged_one_say_so(tmp_path):
    write_state(tmp_path, [evaluation_line(5)], total=10)
    with pytest.raises(ValueError, match=r"no line of training yet.*logging_steps"):
        read_run(tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 1')
    with pytest.raises(ValueError, match=r"trainer_state\.json is damaged"):
        read_run(tmp_path)


def test_stages_are_those_that_the_run_wrote(tmp_path):
    lines = [training_line(4, 0, [0]), training_line(6, 1, [1])]
    write_progressive(tmp_path, lines)
    run = read_run(tmp_path)
    found = [(stage.name, stage.start, stage.end, stage.layers, stage.depth) for stage in run.stages]
    assert found == [("layer 0", 0, 4, (0,), 1), ("layer 1", 4, 8, (1,), 2)], "the last stage has not begun"


def test_damaged_stages_are_named(tmp_path):
    write_progressive(tmp_path, [training_line(4, 0, [0])])
    (tmp_path / "stages.json").write_text('{"strategy": "joint"}')
    with pytest.raises(ValueError, match=r"stages\.json: stages is missing"):
        read_run(tmp_path)


def test_a_window_across_a_boundary_counts_for_both_stages(tmp_path):
    # Windows of 3 steps, stages of 4: the window of steps 4 to 6 has one step of layer 0 and two of layer 1.
    lines = [
        training_line(3, 0, [0]),
        training_line(6, 1, [0, 1]),
        training_line(9, 2, [1], **PRETRAINING),
        training_line(12, 2, **PRETRAINING),
    ]
    write_progressive(tmp_path, lines)
    run = read_run(tmp_path)
    first, second, last = run.stages
    assert run.curve("mean", first) == ([3, 4], [1.0, 1.0])
    assert run.curve("mean", second) == ([6, 8], [2.0, 2.0])
    steps, values = run.curve("masked_lm_loss", last)
    assert (steps, values) == ([9, 12], [5.0, 5.0])
    assert np.isnan(run.curve("mean", last)[1]).all()
    alone = [[line["step"] for line in run.lines_within(stage)] for stage in run.stages]
    assert alone == [[3], [], [12]]


def test_a_stage_shorter_than_the_windows_is_not_lost(tmp_path):
    write_progressive(tmp_path, [training_line(12, 2, [0, 1], **PRETRAINING)])
    run = read_run(tmp_path)
    assert [run.curve("variance", stage) for stage in run.stages[:2]] == [([4], [1.0]), ([8], [2.0])]


def test_without_the_runs_word_the_lines_tell_the_stages(tmp_path):
    lines = [
        training_line(3, 0, [0]),
        training_line(6, 1, [0, 1]),
        training_line(8, 1, [1]),
        training_line(12, 2, **PRETRAINING),
    ]
    write_state(tmp_path, lines, total=12)
    run = read_run(tmp_path)
    assert (run.recipe, run.planned, run.layers) == (None, None, 2)
    found = [(stage.name, stage.start, stage.end, stage.layers, stage.pretraining) for stage in run.stages]
    assert found == [
        ("stage 0", 0, 3, (0,), False),
        ("stage 1", 3, 8, (1,), False),
        ("stage 2", 8, 12, (), True),
    ]
    assert run.rates(lines[0]) == {}


def test_rates_are_the_logged_ones(tmp_path):
    logged = training_line(4, 0, [0], **{"learning_rate/heads": 0.5, "learning_rate/layer_0": 0.25})
    write_progressive(tmp_path, [training_line(3, 0, [0]), logged])
    run = read_run(tmp_path)
    assert run.rates(run.training[1]) == {"heads": 0.5, "layer_0": 0.25}
    assert run.rates(run.training[0]) == {}


def test_a_layers_loss_has_the_runs_weights(tmp_path):
    weights = {term: 10.0**index for index, term in enumerate(TERMS)}
    write_progressive(tmp_path, [training_line(4, 0, [0]), evaluation_line(4, [0, 1])], weights=weights)
    run = read_run(tmp_path)
    assert run.layer_losses(run.evaluations[0], "eval_") == [1111.0, 2222.0]
    assert run.layer_losses(run.training[0]) == [1111.0, pytest.approx(np.nan, nan_ok=True)]
    (tmp_path / "stages.json").unlink()
    assert read_run(tmp_path).layer_losses(run.evaluations[0], "eval_") == [4.0, 8.0], "not weighted"


def test_the_final_evaluation_is_the_last_one(tmp_path):
    lines = [training_line(5), evaluation_line(5), training_line(10), evaluation_line(10)]
    write_state(tmp_path, lines, total=10)
    (tmp_path / "eval_results.json").write_text(json.dumps({"eval_loss": 1.5}))
    run = read_run(tmp_path)
    assert [(line["step"], line["eval_loss"]) for line in run.evaluations] == [(5, 4.0), (10, 1.5)]
    # That of a shorter run which is being made longer is not of this step.
    write_state(tmp_path / "checkpoint-15", [*lines, training_line(15)], total=20)
    assert [line["step"] for line in read_run(tmp_path).evaluations] == [5, 10]
    assert read_run(tmp_path).evaluations[-1]["eval_loss"] == 4.0


def test_relations_are_a_transfer_term(tmp_path):
    line = {"step": 4, "loss": 1.0, "stage": 0, "layer_0/relation": 0.5, "layer_0/feature_map": 2.0}
    write_progressive(tmp_path, [line], weights={"feature_map": 6.0, "relation": 10.0})
    run = read_run(tmp_path)
    assert run.curve("relation", run.stages[0]) == ([4], [0.5])
    assert run.layer_losses(line)[0] == 17.0
