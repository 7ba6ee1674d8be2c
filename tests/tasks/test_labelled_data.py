"""Columns, labels, checks and held-out parts of own labelled data."""

import csv
import json

import pytest

from mobilebert_hf.tasks.kinds import KINDS
from mobilebert_hf.tasks.labelled_data import ColumnNames, decode, load_labelled


def write(path, rows, names=("text", "label")):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return str(path)


def load(kind, train, validation=None, test=None, share=0.25, **columns):
    return load_labelled(KINDS[kind], train, validation, test, ColumnNames(**columns), share)


def labels(data, split="train"):
    return decode(data.kind, data.names, data.splits[split]).columns["label"]


def test_a_part_is_held_out_of_every_class_always_the_same(tmp_path):
    rows = [(f"text {index}", "rare" if index % 10 == 0 else "common") for index in range(100)]
    path = write(tmp_path / "a.csv", [*rows, ("text 1", "common")])
    first, second = load("classify", path, share=0.2), load("classify", path, share=0.2)
    assert first.splits["validation"].numbers == second.splits["validation"].numbers
    assert first.counts("validation") == {"common": 18, "rare": 2}
    assert "20% of each class" in first.notes[0]
    assert "text 1" not in first.splits["validation"].columns["text"], "it occurs twice"
    assert first.names == ("common", "rare")


@pytest.mark.parametrize(
    ("names", "row", "columns", "text", "label"),
    [
        (("Sentence", "Category", "id"), ("a", "x", "1"), {}, "a", "x"),
        (("body", "y"), ("a", "x"), {"text": "body", "label": ("y",)}, "a", "x"),
        (("text", "label"), ("a", "1"), {"names": ("no", "yes")}, "a", "yes"),
        (("text", "label"), ("a", "yes"), {"names": ("no", "yes")}, "a", "yes"),
    ],
)
def test_columns_have_usual_names_or_are_given(tmp_path, names, row, columns, text, label):
    other = [{"a": "b", "x": "z", "1": "0", "yes": "no"}.get(value, value) for value in row]
    path = write(tmp_path / "a.csv", [row, other], names)
    data = load("classify", path, path, **columns)
    assert data.splits["train"].columns["text"][0] == text
    assert labels(data)[0] == label


def test_numbers_as_labels_are_in_the_order_of_their_values(tmp_path):
    path = write(tmp_path / "a.csv", [(f"text {label}", label) for label in (10, 9, 1)])
    assert load("classify", path, path).names == ("1", "9", "10")


@pytest.mark.parametrize(
    ("names", "rows", "columns"),
    [
        (("text", "labels"), [("a", "x|y"), ("b", ""), ("c", "y")], {}),
        (("text", "labels"), [("a", "x, y"), ("b", "[]"), ("c", "y")], {}),
        (("text", "labels"), [("a", "['x', 'y']"), ("b", "[]"), ("c", "['y']")], {}),
        (("text", "labels"), [("a", "0,1"), ("b", ""), ("c", "1")], {"names": ("x", "y")}),
        (("text", "x", "y"), [("a", "1", "1"), ("b", "0", "0"), ("c", "0", "1")], {"label": ("x", "y")}),
    ],
)
def test_sets_of_labels_in_every_form(tmp_path, names, rows, columns):
    path = write(tmp_path / "a.csv", rows, names)
    data = load("multilabel", path, path, **columns)
    assert labels(data) == [["x", "y"], [], ["y"]]
    assert data.splits["train"].columns["label"] == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("values", "label"), [(("0", "1"), "class"), (("0.5", "1"), "score"), (("yes", "1"), "class")]
)
def test_pairs_have_classes_or_scores(tmp_path, values, label):
    rows = [(f"a {value}", "b", value) for value in values]
    path = write(tmp_path / "a.csv", rows, ("premise", "hypothesis", "label"))
    data = load("pairs", path, path)
    assert data.kind.label == label
    assert data.splits["train"].columns["text_pair"] == ["b", "b"]


def test_tags_of_json_lines(tmp_path):
    rows = [{"tokens": ["A", "b"], "ner_tags": [0, 1]}, {"tokens": ["c"], "ner_tags": [2]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load("tag", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl"), names=("O", "B-X", "I-X"))
    assert labels(data) == [["O", "B-X"], ["I-X"]]
    assert data.counts("train") == {"O": 1, "B-X": 1, "I-X": 1}


def test_duplicates_between_splits_are_counted_and_named(tmp_path):
    train = write(tmp_path / "train.csv", [("a", "x"), ("b", "y"), ("c", "y")])
    other = write(tmp_path / "other.csv", [("d", "x"), ("b", "y")])
    [note] = load("classify", train, other).notes
    assert note.startswith("1 validation examples are also training examples")
    assert "other.csv, line 3 is " in note
    assert "train.csv, line 3" in note
    assert str(tmp_path) not in note, "notes are published with the results"


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("classify", [("a", "x"), ("", "y"), (" ", "y")], "train.csv, lines 3, 4: the text is empty. Add the text"),
        ("classify", [("a", "x"), ("b", "")], "train.csv, line 3: the label is missing. Add the label"),
        ("classify", [("a", "x"), ("b", "x")], "train.csv: all labels are x. At least two classes"),
        ("multilabel", [("a", ""), ("b", "")], "train.csv: no example has a label"),
        ("regress", [("a", "1"), ("b", "x")], "train.csv, line 3: the label is no number"),
        ("regress", [("a", "1"), ("b", "nan")], "train.csv, line 3: the label is no number"),
        ("pairs", [("a", "x")], "no column for the text pair: expected one of text2.* --pair-column"),
        ("tag", [("a", "x")], "no column for the tokens: expected one of tokens, words.* --text-column"),
    ],
)
def test_bad_rows_are_named_with_a_remedy(tmp_path, kind, rows, message):
    with pytest.raises(ValueError, match=message):
        load(kind, write(tmp_path / "train.csv", rows))


def test_all_unknown_labels_are_named_together(tmp_path):
    train = write(tmp_path / "train.csv", [("a", "x"), ("b", "y")])
    other = write(tmp_path / "other.csv", [(f"t{index}", "z" if index else "w") for index in range(8)])
    with pytest.raises(ValueError, match="'w' is unknown") as raised:
        load("classify", train, other)
    assert "other.csv, lines 3, 4, 5, 6, 7 and 2 more: the label 'z' is unknown" in str(raised.value)


def test_a_missing_column_lists_those_that_are_there(tmp_path):
    path = write(tmp_path / "a.csv", [("a", "x")])
    with pytest.raises(ValueError, match=r"no column 'txt'. Its columns are text, label"):
        load("classify", path, text="txt")
