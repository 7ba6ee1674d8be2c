"""Students that fit a latency or a file size."""

import pytest

from mobilebert_hf import MobileBertModel, machine
from mobilebert_hf.deployment import shape_search
from mobilebert_hf.deployment.shape_search import Cost, Limits, candidate_rows, list_shapes, measure, search_shape
from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf.runs.run_folder import RECIPE, Recipe
from mobilebert_hf_cli.recipes import _choose_shape

from ..distillation.encoders import build, save_teacher


@pytest.fixture
def counted(monkeypatch):
    """Costs that are counted, not measured: exports take seconds."""

    def count(shapes, limits):
        models = [MobileBertModel(shape.config, add_pooling_layer=False) for shape in shapes]
        return [Cost(sum(value.numel() for value in model.parameters()) / 1e3, model.num_parameters() * 4e-6)
                for model in models]  # fmt: skip

    monkeypatch.setattr(shape_search, "measure", count)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("teacher")
    return str(save_teacher(folder, tiny_tokenizer, sentence_encoder=True, num_hidden_layers=4))


def limit(megabytes=None, milliseconds=None, target="onnx"):
    return Limits(milliseconds, megabytes, target, threads=1)


def test_candidates_are_layers_and_neurons_of_the_teacher():
    shapes = list_shapes(build("Bert", num_hidden_layers=3))
    assert {shape.mapping for shape in shapes} == {(2,), (0, 2), (0, 1, 2)}
    assert {shape.config.intermediate_size for shape in shapes} == {16, 48, 64}


@pytest.mark.slow
def test_costs_follow_from_four_exports(monkeypatch):
    monkeypatch.setattr(shape_search, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(machine, "WARM_UP", 0.0)
    shapes = list_shapes(build("Bert", num_hidden_layers=3))
    costs = shape_search.predict_costs(shapes, limit(megabytes=1))
    largest = shapes[-1]
    [measured] = measure([largest], limit(megabytes=1))
    assert costs[3, 64].megabytes == pytest.approx(measured.megabytes, rel=0.05)
    assert costs[1, 16].megabytes < costs[1, 64].megabytes < costs[3, 64].megabytes


def test_the_nearest_student_within_the_limit_is_chosen(teacher, tiny_corpus, counted):
    everything, candidates = search_shape(teacher, [str(tiny_corpus)], limit(megabytes=100))
    assert everything.similarity == max(candidate.similarity for candidate in candidates)
    sizes = sorted(candidate.cost.megabytes for candidate in candidates)
    limits = limit(megabytes=(sizes[0] + sizes[-1]) / 2)
    chosen, candidates = search_shape(teacher, [str(tiny_corpus)], limits)
    assert limits.allow(chosen.cost)
    assert chosen.cost.megabytes < everything.cost.megabytes
    rows = candidate_rows(chosen, candidates, limits)
    assert [row[0] for row in rows[1:]].count("*") == 1


def test_what_cannot_be_is_said(teacher, tiny_corpus, counted):
    with pytest.raises(ValueError, match=r"no pruned student of .* fits: the smallest takes .* ms and .* MB in onnx"):
        search_shape(teacher, [str(tiny_corpus)], limit(megabytes=0.001))
    with pytest.raises(ValueError, match="expected a limit"):
        limit()
    with pytest.raises(ValueError, match="format='paper': expected one of"):
        limit(megabytes=1, target="paper")
    assert not Limits(1.0, 5.0).allow(Cost(0.5, 6.0))
    assert Limits(1.0, 5.0).allow(Cost(0.5, 4.0))


def test_the_command_chooses_once(teacher, tiny_corpus, tmp_path, counted):
    given = (teacher, [str(tiny_corpus)], tmp_path, None, 100.0, "onnx", 1)
    options = _choose_shape([], *given)
    values = ["--teacher", teacher, "--corpus", str(tiny_corpus), "--output_dir", str(tmp_path), *options]
    student, *_ = parse_recipe(RECIPE_ARGUMENTS, values)
    assert student.size == "pruned"
    # A run that goes on keeps its student.
    Recipe(
        ("StudentArguments",), {"size": "pruned", "layers": "3", "config_overrides": {"intermediate_size": 16}}, "1"
    ).write(tmp_path / RECIPE)
    assert _choose_shape([], *given)[3] == "3"
    with pytest.raises(ValueError, match="--layers: --latency and --size-limit choose"):
        _choose_shape(["--layers", "1"], *given)
    with pytest.raises(ValueError, match="need --teacher and --corpus"):
        _choose_shape([], None, *given[1:])
