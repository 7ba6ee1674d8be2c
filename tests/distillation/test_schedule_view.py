"""The table and the picture of a strategy."""

import io

import numpy as np
import pytest
from matplotlib import image
from rich.console import Console

from mobilebert_hf.distillation.schedule_view import describe, plot
from mobilebert_hf.distillation.strategies import Stage, Strategy, build_strategy

STRATEGIES = ("auxiliary", "joint", "progressive")


def lines(strategy, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(describe(strategy))
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_full_recipe_has_a_line_a_stage(name):
    strategy = build_strategy(name, 24, 240_000, 500_000)
    table = describe(strategy)
    assert table.row_count == len(strategy.stages)
    # No cell is broken over two lines at a usual width.
    text = [" ".join(words) for words in lines(strategy)]
    assert sum(line.startswith(tuple(f"{stage.name} " for stage in strategy.stages)) for line in text) == len(
        strategy.stages
    )
    assert text[0].startswith(f"{name}: 740,000 steps in {len(strategy.stages)} stage")


def test_the_table_says_what_a_stage_does():
    text = [" ".join(words) for words in lines(build_strategy("progressive", 4, 400, 1600))]
    assert "layer 0 0 - 99 1 FMT + AT 0 0 x 3 wave" in text
    assert "layer 3 300 - 399 4 FMT + AT 3 0-2 x 0.3, 3 x 3 wave" in text
    assert "distillation 400 - 1,999 4 MLM + NSP all x 1 linear 32" in text


def test_the_table_names_layers_that_are_no_neighbours_one_by_one():
    stage = Stage("every other", 10, 4, (0, 2), False, (1.0, 0.0, 2.0, 0.0), 0.5, 0.0, "constant")
    text = [" ".join(words) for words in lines(Strategy("own", (stage,)))]
    assert "every other 0 - 9 4 FMT + AT 0, 2 embeddings x 0.5, 0 x 1, 2 x 2 constant" in text


def test_the_table_tells_hard_from_soft_freezing():
    text = [" ".join(words) for words in lines(build_strategy("progressive", 4, 400, 0, "hard"))]
    assert "layer 3 300 - 399 4 FMT + AT 3 3 x 3 wave" in text


@pytest.mark.parametrize(("name", "layers"), [("auxiliary", 4), ("joint", 4), ("progressive", 24)])
def test_the_picture_is_written_and_not_empty(tmp_path, name, layers):
    path = plot(build_strategy(name, layers, 24 * 50, 1000), tmp_path / "schedule.png", base_learning_rate=1.5e-3)
    pixels = image.imread(path)
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


def test_the_smallest_strategy_can_be_drawn(tmp_path):
    assert plot(build_strategy("progressive", 1, 1, 0), tmp_path / "schedule.svg", base_learning_rate=1.0).exists()
