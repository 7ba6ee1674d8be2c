"""Labelled files are read as they are, in every format."""

import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from mobilebert_hf.data.labelled import has_split, read_rows

ROWS = [{"text": "None", "label": "NA"}, {"text": 'a "b", c', "label": "1"}, {"text": "two\nlines", "label": "null"}]
QUOTED = 'text{0}label\nNone{0}NA\n"a ""b"", c"{0}1\n"two\nlines"{0}null\n'


def rows_of(examples):
    return [dict(zip(examples.columns, row, strict=True)) for row in zip(*examples.columns.values(), strict=True)]


@pytest.mark.parametrize("name", ["a.csv", "b.csv", "c.tsv", "d.jsonl", "e.json", "f.parquet", "g.csv.gz", "saved"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    contents = {
        "a": QUOTED.format(","),
        "b": QUOTED.format(";"),
        "c": QUOTED.format("\t"),
        "d": "".join(json.dumps(row) + "\n" for row in ROWS),
        "e": json.dumps(ROWS, indent=1),
    }
    if name == "saved":
        Dataset.from_list(ROWS).save_to_disk(path)
    elif name.endswith("parquet"):
        Dataset.from_list(ROWS).to_parquet(path)
    elif name.endswith("gz"):
        path.write_bytes(gzip.compress(contents["a"].encode()))
    else:
        path.write_text(contents[name[0]])
    assert rows_of(read_rows(str(path), "train")) == ROWS


def test_rows_are_counted_by_the_lines_where_they_begin(tmp_path):
    (tmp_path / "a.csv").write_text(QUOTED.format(",") + "\nlast,1\n")
    assert read_rows(str(tmp_path / "a.csv"), "train").numbers == [2, 3, 4, 7]


@pytest.mark.parametrize(("text", "found"), [('He said "no"', 'He said "no"'), ('"Quote" he said', '"Quote" he said')])
def test_quotation_marks_of_plain_tables_belong_to_the_text(tmp_path, text, found):
    (tmp_path / "a.tsv").write_text(f"text\tlabel\n{text}\t1\n")
    assert read_rows(str(tmp_path / "a.tsv"), "train").columns["text"] == [found]


def test_a_file_without_names_has_numbered_columns(tmp_path):
    (tmp_path / "a.tsv").write_text("hello\t4,27\tid1\nworld\t3\tid2\n")
    examples = read_rows(str(tmp_path / "a.tsv"), "train", has_header=False)
    assert examples.columns == {"1": ["hello", "world"], "2": ["4,27", "3"], "3": ["id1", "id2"]}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A B-X\nb O\n\nc O\n", [["A", "b"], ["c"]]),
        ("-DOCSTART- -X- O\n\nA NN O\n#  NN O\n\n\nc NN O\n", [["A", "#"], ["c"]]),
        ("# id = 1\nA\tO\n#\tO\n\n# text\nc d\tO", [["A", "#"], ["c d"]]),
    ],
)
def test_columns_of_tokens(tmp_path, text, tokens):
    (tmp_path / "a.conll").write_text(text)
    examples = read_rows(str(tmp_path / "a.conll"), "train", tokens=True)
    assert examples.columns["1"] == tokens
    assert [len(tags) for tags in list(examples.columns.values())[-1]] == [len(row) for row in tokens]


def test_splits_and_names_of_classes_of_data_sets(tmp_path):
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "ids": List(Value("int8"))}
    )
    part = Dataset.from_list([{"text": "a", "label": 1, "ids": [1]}], features=features)
    DatasetDict({"train": part, "validation": part}).save_to_disk(tmp_path / "saved")
    part.to_parquet(tmp_path / "a.parquet")
    for source in ("saved", "a.parquet"):
        examples = read_rows(str(tmp_path / source), "train")
        assert examples.class_names == {"label": ("no", "yes")}
        assert examples.columns["ids"] == [[1]]
    assert [has_split(str(tmp_path / "saved"), split) for split in ("validation", "test")] == [True, False]
    assert not has_split(str(tmp_path / "a.parquet"), "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,label\n", "a.csv has no examples"),
        ("a.csv", "text,label\na,b,c\n", r"a.csv, line 2: 3 columns, expected 2 \(text, label\)"),
        ("a.csv", b"text,label\n\xff,b\n", "a.csv is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n3\n', "a.jsonl, line 2: '3' is not a JSON object"),
        ("a.json", "[1,", "a.json, line 1"),
        ("a.csv.gz", "text", "a.csv.gz cannot be read"),
        ("a.xlsx", "", r"a.xlsx: files of labels end in .csv"),
        ("a.conll", "A B-X\nb\n", "a.conll, line 2: 1 columns, but 2 in the line before"),
        ("a.conll", "A B-X\n\nb\n", "a.conll, line 3: expected 2 columns"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_rows(str(tmp_path / name), "train", tokens=name.endswith("conll"))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*a\.csv' is no file, no folder saved by datasets"):
        read_rows(str(tmp_path / "a.csv"), "train")
