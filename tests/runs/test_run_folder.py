import logging
from importlib import metadata

import pytest
import yaml

from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf.runs.run_folder import Recipe, open_run_folder


def parse(tmp_path, *options):
    base = ["--teacher", "somewhere", "--corpus", "a.txt", "b.txt", "--output_dir", str(tmp_path / "run")]
    return parse_recipe(RECIPE_ARGUMENTS, [*base, "--use_cpu", "true", *options])


def open_once(arguments):
    with open_run_folder(arguments[-1], arguments) as folder:
        return folder / "recipe.yaml"


def test_the_recipe_of_a_run_is_a_recipe(tmp_path):
    overrides = '{"intra_bottleneck_size": 32}'
    options = ["--learning_rate", "3e-4", "--alpha", "0.7", "--hub_token", "secret", "--config_overrides", overrides]
    arguments = parse(tmp_path, *options)
    path = open_once(arguments)
    values = yaml.safe_load(path.read_text())
    assert values.pop("dataloader_pin_memory") is False, "what the library made of use_cpu"
    assert values == {
        "teacher": "somewhere",
        "config_overrides": overrides,
        "corpus": ["a.txt", "b.txt"],
        "output_dir": str(tmp_path / "run"),
        "learning_rate": 3e-4,
        "use_cpu": True,
        "alpha": 0.7,
    }
    again = parse_recipe(RECIPE_ARGUMENTS, ["--config", str(path)])
    assert again[:2] == arguments[:2]
    assert open_once(again).read_text() == path.read_text()


def test_a_recipe_names_the_version_that_ran_it(tmp_path):
    path = open_once(parse(tmp_path))
    recipe = Recipe.read(path)
    assert recipe.classes == tuple(kind.__name__ for kind in RECIPE_ARGUMENTS)
    assert recipe.version.startswith(f"mobilebert-hf {metadata.version('mobilebert-hf')}")
    path.write_text(path.read_text().split("\n", 2)[2])
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected two comment lines at the start"):
        Recipe.read(path)


def test_other_arguments_than_before_are_named(tmp_path, caplog):
    open_once(parse(tmp_path, "--alpha", "0.7", "--seed", "3"))
    with caplog.at_level(logging.WARNING):
        open_once(parse(tmp_path, "--alpha", "0.6", "--seed", "3"))
        open_once(parse(tmp_path, "--alpha", "0.6", "--seed", "3"))
    warnings = [record.getMessage() for record in caplog.records if "other arguments" in record.getMessage()]
    assert warnings == [f"{tmp_path / 'run'} was started with other arguments: alpha 0.7 -> 0.6."]


def test_a_folder_in_use_is_refused(tmp_path):
    arguments = parse(tmp_path)
    with (
        open_run_folder(arguments[-1], arguments),
        pytest.raises(ValueError, match=r"run is in use by another run"),
    ):
        open_once(arguments)
    assert open_once(arguments).is_file(), "it is free again"


@pytest.mark.parametrize(("name", "value"), [("data_seed", 0), ("ddp_find_unused_parameters", False)])
def test_zero_and_false_are_kept_where_nothing_is_the_default(tmp_path, name, value):
    path = open_once(parse(tmp_path, f"--{name}", str(value)))
    assert yaml.safe_load(path.read_text())[name] == value
    again = parse_recipe(RECIPE_ARGUMENTS, ["--config", str(path)])
    assert getattr(again[-1], name) == value
