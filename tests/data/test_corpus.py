import bz2
import gzip
import json
import logging
import lzma

import pyarrow
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from mobilebert_hf.data import corpus as module
from mobilebert_hf.data import load_documents, plain_text

TEXT = "First paragraph.\nSecond one.\n\nAnother document.\r\n  \n\n\nA third: é 中。\n"
DOCUMENTS = ["First paragraph.\nSecond one.", "Another document.", "A third: é 中。"]


def open_zstandard(path, mode):
    return pyarrow.output_stream(path, compression="zstd")


def texts(documents):
    return [row["text"] for row in documents]


@pytest.mark.parametrize(
    ("name", "opener"),
    [
        ("a.txt", open),
        ("a.txt.gz", gzip.open),
        ("a.bz2", bz2.open),
        ("a.text.xz", lzma.open),
        ("a.txt.zst", open_zstandard),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_text_files_with_and_without_compression(tmp_path, name, opener, streaming):
    with opener(tmp_path / name, "wb") as file:
        file.write(b"\xef\xbb\xbf" + TEXT.encode())
    documents = load_documents([str(tmp_path / name)], streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert isinstance(documents, IterableDataset if streaming else Dataset)
    assert texts(documents) == DOCUMENTS


def test_folder_glob_and_several_sources_keep_their_order(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.txt").write_text("B")
    (tmp_path / "deep" / "a.txt").write_text("A")
    (tmp_path / "deep" / "notes.md").write_text("not text")
    (tmp_path / "deep" / ".cache").mkdir()
    (tmp_path / "deep" / ".cache" / "hidden.txt").write_text("hidden")
    (tmp_path / "wiki_00").write_text("W")
    cache = str(tmp_path / "cache")
    assert texts(load_documents([str(tmp_path / "deep")], cache_dir=cache)) == ["A", "B"]
    assert texts(load_documents([str(tmp_path / "wiki_*")], cache_dir=cache)) == ["W"]
    both = load_documents([str(tmp_path / "wiki_00"), str(tmp_path / "deep")], cache_dir=cache)
    assert texts(both) == ["W", "A", "B"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_datasets_are_loaded_by_load_dataset(tmp_path, streaming, as_folder, suffix, caplog):
    rows = Dataset.from_dict({"body": ["one", "", "two", None, "three"], "id": [1, 2, 3, 4, 5]})
    file = tmp_path / "data" / f"train.{suffix}"
    file.parent.mkdir()
    rows.to_parquet(file) if suffix == "parquet" else rows.to_json(file)
    source = str(file.parent if as_folder else file)
    with caplog.at_level(logging.INFO, module.__name__):
        documents = load_documents(
            [source], text_column="body", streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
    assert texts(documents) == ["one", "two", "three"]
    assert list(documents[0] if not streaming else next(iter(documents))) == ["text"]
    assert "3 documents kept, 2 empty ones dropped" in caplog.text


def test_text_files_and_datasets_can_be_combined(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "row"}) + "\n")
    for streaming in (False, True):
        documents = load_documents(
            [str(tmp_path / "b.jsonl"), str(tmp_path / "a.txt")],
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )
        assert texts(documents) == ["plain", "row"]


def test_hub_ids_are_distinguished_from_paths():
    assert module.find_sources(["owner/name", "wikimedia/wikipedia:20231101.en"]) == (
        [],
        [{"path": "owner/name", "name": None}, {"path": "wikimedia/wikipedia", "name": "20231101.en"}],
    )


def test_hub_dataset_that_cannot_be_loaded(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the Hub")

    monkeypatch.setattr(module, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match=r"'owner/name' is no local file or folder.*no route to the Hub"):
        load_documents(["owner/name"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [("no/such/file.txt", "no file or folder"), ("missing", "no file or folder"), ("x*.txt", "no file matches")],
)
def test_missing_sources_are_named(tmp_path, monkeypatch, entry, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message) as error:
        load_documents([entry])
    assert entry in str(error.value)


def test_empty_list_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match="empty list"):
        load_documents([])
    (tmp_path / "empty.txt").write_text(" \n\n")
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"corpus is empty.*empty\.txt"):
            load_documents([str(tmp_path / "empty.txt")], streaming=streaming, cache_dir=str(tmp_path / "cache"))


def test_folder_without_text_or_with_text_and_tables(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"has no text: none of its 1 files.*use a glob"):
        load_documents([str(tmp_path)])
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"both plain text \(a.txt\) and files with columns \(b.jsonl\)"):
        load_documents([str(tmp_path)])


@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_that_are_not_utf8(tmp_path, streaming):
    file = tmp_path / "latin1.txt"
    file.write_bytes("good line\ncafé\n".encode("latin-1"))
    options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"latin1\.txt is not UTF-8: byte 0xe9 at line 2 \(byte offset 13\)"):
        load_documents([str(file)], **options)
    assert texts(load_documents([str(file)], encoding_errors="replace", **options)) == ["good line\ncaf\ufffd"]


@pytest.mark.parametrize(("name", "opener"), [("a.txt.gz", gzip.open), ("a.txt.zst", open_zstandard)])
def test_damaged_archive(tmp_path, name, opener):
    file = tmp_path / name
    with opener(file, "wb") as stream:
        stream.write(TEXT.encode() * 50)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"cannot read .*{name}.*complete"):
        load_documents([str(file)], cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("text", ["x" * 300, "word\n" * 60])
def test_documents_that_are_not_separated(tmp_path, monkeypatch, text):
    monkeypatch.setattr(plain_text, "MAX_DOCUMENT_BYTES", 200)
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=r"a\.txt that reaches line \d+ is longer.*blank lines between"):
        load_documents([str(tmp_path / "a.txt")], cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_without_the_column_rows_or_text(tmp_path, streaming):
    options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    Dataset.from_dict({"body": ["", "", " ", "x"], "title": ["a"] * 4}).to_parquet(tmp_path / "a.parquet")
    source = [str(tmp_path / "a.parquet")]
    with pytest.raises(ValueError, match=r"no column 'text': set text_column to one of body, title"):
        load_documents(source, **options)
    with pytest.raises(ValueError, match=r"3 of the 4 documents .* have no text in the column 'body'"):
        load_documents(source, text_column="body", **options)
    Dataset.from_dict({"text": [["x"], ["y"]]}).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match=r"the column 'text' of .*lists\.parquet' has List.*a column of strings"):
        load_documents([str(tmp_path / "lists.parquet")], **options)
    Dataset.from_dict({"text": ["x"]}).select([]).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"cannot read a 'train' split with rows from .*none\.parquet"):
        load_documents([str(tmp_path / "none.parquet")], **options)


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "a.txt"
    for content in ("old", "newer"):
        file.write_text(content)
        assert texts(load_documents([str(file)], cache_dir=str(tmp_path / "cache"))) == [content]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029", "\r\r\n"])
def test_all_line_ends_separate_paragraphs_and_documents(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(end.join(["first", "second", "", "another é", "its end"]).encode())
    documents = load_documents([str(tmp_path / "a.txt")], cache_dir=str(tmp_path / "cache"))
    assert documents["text"][:] == ["first\nsecond", "another é\nits end"]


def test_a_line_end_at_the_end_of_a_read_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "MAX_DOCUMENT_BYTES", 40)
    (tmp_path / "a.txt").write_bytes(b"\r\r".join([b"word word word"] * 20))
    lines = list(plain_text.read_documents([str(tmp_path / "a.txt")], "strict"))
    assert lines == [{"text": "word word word"}] * 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.html", b"<p>text", "not plain text"),
        ("a.docx", b"PK\x03\x04", "not plain text"),
        ("a.srt.gz", b"", "not plain text"),
        ("a.txt", b"%PDF-1.4", "is PDF"),
        ("a.txt", b"PK\x03\x04text", "is a ZIP archive"),
        ("a.txt", b"\xef\xbb\xbf <!DOCTYPE html><html>", "is HTML"),
        ("a.txt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "is subtitles"),
        ("a.txt", b'{"text": "one document"}\n', "is JSON Lines"),
        ("a.txt", "the cat\n\nthe dog\n".encode("utf-16"), "is UTF-16"),
        ("a.txt", b"text \0 more", "is UTF-16 or binary"),
        ("a.txt", gzip.compress(b"text", mtime=0), "is gzip-compressed"),
        ("notes", b"{\\rtf1 text}", "is RTF"),
    ],
)
def test_other_formats_are_not_read_as_prose(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    sources = [tmp_path / name, tmp_path / "*"]
    for source in [*sources, tmp_path] if name.endswith(".txt") else sources:
        with pytest.raises(ValueError, match=message):
            load_documents([str(source)])


def test_tab_separated_files_have_columns(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tshe said "no\n2\ta dog\n')
    for streaming in (False, True):
        documents = load_documents([str(tmp_path / "a.tsv")], streaming=streaming, cache_dir=str(tmp_path / "c"))
        assert [row["text"] for row in documents] == ['she said "no', "a dog"]
    with pytest.raises(ValueError, match=r"has \.tsv files: name them"):
        load_documents([str(tmp_path)])


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_datasets_are_loaded(tmp_path, streaming):
    rows = Dataset.from_dict({"text": ["one", "two"]})
    rows.save_to_disk(tmp_path / "rows")
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "splits")
    DatasetDict(test=rows).save_to_disk(tmp_path / "test")
    for name in ("rows", "splits"):
        documents = load_documents([str(tmp_path / name)], streaming=streaming)
        assert [row["text"] for row in documents] == ["one", "two"]
    with pytest.raises(ValueError, match="it has the splits test"):
        load_documents([str(tmp_path / "test")], streaming=streaming)


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": "bad \\ud83d"}', r"line 2 has a lone surrogate in 'text', 'bad .ud83d'"), ("{", "line 2 is not JSON")],
)
def test_the_bad_line_of_json_lines_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        load_documents([str(tmp_path / "a.jsonl")], cache_dir=str(tmp_path / "cache"))
