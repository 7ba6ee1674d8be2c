"""Arguments from a YAML file and from the command line."""

import pytest

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.distillation import DistillationArguments, StudentArguments
from mobilebert_hf.distillation.pretrain import ModelArguments
from mobilebert_hf.recipe import parse_recipe
from mobilebert_hf.training import PreTrainingArguments

TEACHER = (ModelArguments, PretrainingDataArguments, PreTrainingArguments)
STUDENT = (StudentArguments, PretrainingDataArguments, DistillationArguments)


@pytest.fixture
def parse(tmp_path):
    def parse(text, *options, classes=TEACHER):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return parse_recipe(classes, ["--config", str(path), *options])

    return parse


def test_values_of_the_file_reach_their_classes(parse):
    model, data, training = parse(
        "preset: mobilebert\nvocab_size: 500\ncorpus: [a.txt, b.txt]\nmlm_probability: 0.2\nmax_steps: 7\n"
    )
    assert (model.preset, model.vocab_size) == ("mobilebert", 500)
    assert (data.corpus, data.mlm_probability) == (["a.txt", "b.txt"], 0.2)
    assert training.max_steps == 7
    assert isinstance(training, PreTrainingArguments)


def test_options_win_over_the_file_wherever_they_stand(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("corpus: [a.txt]\nmax_steps: 7\nseed: 3\n")
    for argv in (
        ["--max_steps", "9", "--corpus", "b.txt", "c.txt", "--config", str(path)],
        [f"--config={path}", "--corpus", "b.txt", "c.txt", "--max_steps=9"],
    ):
        _, data, training = parse_recipe(TEACHER, argv)
        assert (data.corpus, training.max_steps, training.seed) == (["b.txt", "c.txt"], 9, 3)


def test_options_alone_are_enough():
    _, data, training = parse_recipe(TEACHER, ["--corpus", "a.txt", "--learning_rate", "1e-3"])
    assert (data.corpus, training.learning_rate) == (["a.txt"], 1e-3)


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001"])
def test_a_number_is_a_number_in_any_notation(parse, number):
    """YAML reads `1e-3` as text."""
    _, _, training = parse(f"corpus: [a.txt]\nlearning_rate: {number}\n")
    assert training.learning_rate == 1e-3


@pytest.mark.parametrize("value", ["true", "yes", "'true'"])
def test_booleans(parse, value):
    assert parse(f"corpus: [a.txt]\nuse_lamb: {value}\n")[2].use_lamb is True


def test_booleans_can_be_turned_off_in_both_places(parse):
    text = "corpus: [a.txt]\nlowercase: false\nwhole_word_mask: true\n"
    model, data, _ = parse(text)
    assert (model.lowercase, data.whole_word_mask) == (False, True)
    model, data, _ = parse(text, "--lowercase", "true", "--whole_word_mask", "false")
    assert (model.lowercase, data.whole_word_mask) == (True, False)


def test_one_value_is_a_list_of_one(parse):
    assert parse("corpus: books.txt\n")[1].corpus == ["books.txt"]


def test_what_is_empty_in_the_file_is_none(parse):
    assert parse("corpus: [a.txt]\nvalidation_corpus:\n")[1].validation_corpus is None


def test_overrides_of_the_configuration_come_as_a_mapping_or_as_json(parse):
    fields = {"hidden_size": 64, "normalization_type": "no_norm"}
    yaml = "corpus: [a.txt]\nconfig_overrides:\n  hidden_size: 64\n  normalization_type: no_norm\n"
    json = '{"hidden_size": 64, "normalization_type": "no_norm"}'
    for model in (parse(yaml)[0], parse("corpus: [a.txt]\n", "--config_overrides", json)[0]):
        config = model.build_config(vocab_size=300)
        assert {name: getattr(config, name) for name in fields} == fields
        assert config.vocab_size == 300


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{hidden_size: 64", r"config_overrides='\{hidden_size: 64' is not JSON .* write it as"),
        ("[64]", r"config_overrides='\[64\]' must be a JSON object"),
        ('{"hiden_size": 64}', "config_overrides: hiden_size are not fields of IBBertConfig"),
        ('{"intra_bottleneck_size": 63}', "IBBertConfig: intra_bottleneck_size=63 is not allowed"),
    ],
)
def test_bad_overrides_are_named(overrides, message):
    model, *_ = parse_recipe(TEACHER, ["--corpus", "a.txt", "--config_overrides", overrides])
    with pytest.raises(ValueError, match=message):
        model.build_config()


def test_required_arguments_may_stand_in_the_file_or_on_the_command_line(parse):
    student, data, _ = parse("teacher: t\n", "--corpus", "a.txt", classes=STUDENT)
    assert (student.teacher, data.corpus) == ("t", ["a.txt"])
    with pytest.raises(SystemExit):
        parse("corpus: [a.txt]\n", classes=STUDENT)


@pytest.mark.parametrize(
    ("key", "hint"), [("learning-rate", "; did you mean 'learning_rate'?"), ("zzzzzzzz", "."), ("7", ".")]
)
def test_an_unknown_key_is_named_with_its_file_and_the_nearest_field(parse, tmp_path, key, hint):
    with pytest.raises(ValueError, match="is not an argument") as error:
        parse(f"corpus: [a.txt]\n{key}: 1\n")
    expected = (
        f"{tmp_path / 'recipe.yaml'}: {key if key == '7' else repr(key)} is not an argument of this recipe{hint}"
    )
    assert str(error.value) == f"{expected} See --help for all of them."


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="--learning_rats"):
        parse_recipe(TEACHER, ["--corpus", "a.txt", "--learning_rats", "1"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.yaml"):
        parse_recipe(TEACHER, ["--config", str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("", "NoneType"), ("word", "str")])
def test_a_file_that_is_no_mapping_is_refused(parse, text, kind):
    with pytest.raises(ValueError, match=rf"recipe.yaml is a {kind}"):
        parse(text)


def test_a_file_that_is_not_yaml_is_refused(parse):
    with pytest.raises(ValueError, match=r"recipe\.yaml is not YAML: (.|\n)*line 2, column 10"):
        parse("corpus: [a.txt\nmax_steps: 7\n")


def test_a_value_that_is_no_number_is_named(parse, capsys):
    with pytest.raises(SystemExit):
        parse("corpus: [a.txt]\nlearning_rate: fast\n")
    assert "learning-rate: invalid float value: 'fast'" in capsys.readouterr().err
