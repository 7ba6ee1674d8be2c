import pytest

from mobilebert_hf.finetuning.sweep import (
    Cell,
    Finished,
    GridArguments,
    best_point,
    keep_best_model,
    median_score,
    plan,
    read_finished,
    write_finished,
)

DEFAULT = Cell(32, 5e-5, 3.0, 42)


def test_without_a_grid_there_is_one_run():
    assert plan(GridArguments(), DEFAULT) == [DEFAULT]


def test_every_combination_is_planned_seeds_together():
    cells = plan(GridArguments(seeds=[1, 2], batch_sizes=[16, 32], learning_rates=[1e-5, 2e-5, 3e-5]), DEFAULT)
    assert len({cell.name for cell in cells}) == len(cells) == 12
    assert [cell.seed for cell in cells[:2]] == [1, 2]
    assert cells[0].point == cells[1].point
    assert cells[0].name == "batch16-lr1e-05-epochs3-seed1"


@pytest.mark.parametrize(
    "grid", [{"seeds": []}, {"seeds": [1, 1]}, {"batch_sizes": [0]}, {"learning_rates": [-1e-5]}, {"epochs": [2, 0]}]
)
def test_a_grid_that_makes_no_sense_is_refused(grid):
    with pytest.raises(ValueError, match=f"{next(iter(grid))}=.*expected positive values, each once"):
        plan(GridArguments(**grid), DEFAULT)


def run(score, seed=1, rate=1e-5):
    return Finished(Cell(16, rate, 2.0, seed), score, {"note": "kept"})


def test_a_finished_run_is_read_as_it_was_written(tmp_path):
    assert read_finished(tmp_path) is None
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "model.safetensors").touch()
    for finished in (run(0.5), run(None)):
        write_finished(tmp_path, finished)
        assert read_finished(tmp_path) == finished
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "model.safetensors"}


def test_only_the_best_model_is_kept(tmp_path):
    for name, score in (("a", 0.5), ("b", 0.7), ("c", 0.7), ("d", None), ("unfinished", None)):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "model.safetensors").touch()
        if name != "unfinished":
            write_finished(tmp_path / name, run(score))
    assert keep_best_model(tmp_path) == tmp_path / "b"
    with_model = {path.parent.name for path in tmp_path.glob("*/model.safetensors")}
    assert with_model == {"b", "unfinished"}
    assert all((tmp_path / name / "results.json").is_file() for name in "abcd")


def test_the_best_setting_has_the_highest_median():
    lucky = [run(0.9, 1, 1e-5), run(0.1, 2, 1e-5), run(0.2, 3, 1e-5)]
    steady = [run(0.5, 1, 2e-5), run(0.6, 2, 2e-5), run(None, 3, 2e-5)]
    assert best_point([*lucky, *steady]) == steady
    assert median_score(steady) == 0.5
    assert median_score([run(None), run(None), run(0.5)]) is None
