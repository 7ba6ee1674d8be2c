"""Questions from official files and the Hub, and their windows."""

import gzip
import json

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from mobilebert_hf.data.squad import EXAMPLES, is_version_2, load_squad
from mobilebert_hf.data.squad_windows import build_features, shorten

CONTEXT = "Bridges carry roads over rivers. The oldest stone bridge crosses the river Meles in Türkiye."


def question(identifier="q1", text="stone bridge", start=None, **changes):
    start = CONTEXT.index(text) if start is None else start
    answers = [{"text": text, "answer_start": start}]
    return {"id": identifier, "question": "What is old?", "answers": answers, **changes}


def write(path, *questions, context=CONTEXT):
    article = {"title": "Bridges", "paragraphs": [{"context": context, "qas": list(questions)}]}
    path.write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    return str(path)


def test_an_official_file_is_read(tmp_path):
    examples = load_squad(write(tmp_path / "dev.json", question(), question("q2", "Meles")), "validation")
    assert examples.features == EXAMPLES
    assert examples[1] == {
        "id": "q2",
        "title": "Bridges",
        "context": CONTEXT,
        "question": "What is old?",
        "answers": {"text": ["Meles"], "answer_start": [CONTEXT.index("Meles")]},
    }
    assert not is_version_2(examples)


def test_version_2_has_questions_without_answers(tmp_path):
    impossible = {"id": "q2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": []}
    path = write(tmp_path / "dev.json", question(is_impossible=False), impossible)
    compressed = tmp_path / "dev-v2.0.json.gz"
    compressed.write_bytes(gzip.compress((tmp_path / "dev.json").read_bytes()))
    for source in (path, str(compressed)):
        examples = load_squad(source, "validation")
        assert is_version_2(examples)
        assert examples["answers"][1] == {"text": [], "answer_start": []}


def test_a_changed_file_is_read_again(tmp_path):
    load_squad(write(tmp_path / "a.json", question()), "train")
    assert load_squad(write(tmp_path / "a.json", question(text="rivers")), "train")["answers"][0]["text"] == ["rivers"]


def test_a_hub_dataset_is_read(tmp_path):
    examples = load_squad(write(tmp_path / "a.json", question()), "train")
    (tmp_path / "hub").mkdir()
    examples.to_parquet(tmp_path / "hub" / "train.parquet")
    assert load_squad(str(tmp_path / "hub"), "train")[0] == examples[0]
    examples.remove_columns("context").to_parquet(tmp_path / "hub" / "train.parquet")
    with pytest.raises(ValueError, match="split train: no column context"):
        load_squad(str(tmp_path / "hub"), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            question("q7", "rivers", 3),
            r"question 'q7' of 'Bridges': at answer_start 3 the context has 'dges c', not the ",
        ),
        (question(start=-1), "at answer_start -1"),
        (question(text="tower", start=0), "it is not in the context"),
        ({"id": "q1", "question": "?"}, "'answers' is missing"),
        ({"question": "?", "answers": []}, "'id' is missing"),
    ],
)
def test_a_wrong_answer_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_squad(write(tmp_path / "bad.json", content), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a complete JSON file"),
        ('{"data": [', "is not a complete JSON file"),
        ('{"rows": []}', "does not have the official layout"),
        ("[]", "has no questions"),
        ('{"data": []}', "has no questions"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json.*{message}"):
        load_squad(str(tmp_path / "bad.json"), "train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.json"):
        load_squad(str(tmp_path / "gone.json"), "train")


@pytest.fixture(scope="module")
def tokenizer():
    letters = sorted({letter for letter in CONTEXT.lower() if letter.strip()} | set("whatisold?xy"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), "bridge"]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def as_dataset(context, answers, text="what is old?"):
    return Dataset.from_list(
        [{"id": "q", "title": "", "context": context, "question": text, "answers": answers}], features=EXAMPLES
    )


WORDS = st.lists(
    st.sampled_from(["bridge", "bridges", "old", "x", "x-y", "rivers.", "  ", "\n"]), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(words=WORDS, data=st.data(), stride=st.integers(0, 20))
def test_windows_cover_the_context_and_find_the_answer(tokenizer, words, data, stride):
    context = " ".join(words)
    spans = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if not spans:
        return
    first = data.draw(st.integers(0, len(spans) - 1))
    last = data.draw(st.integers(first, min(first + 5, len(spans) - 1)))
    begin, end = spans[first][0], spans[last][1]
    examples = as_dataset(context, {"text": [context[begin:end]], "answer_start": [begin]})
    arguments = {"max_length": 48, "doc_stride": stride, "max_question_length": 16}
    windows = build_features(examples, tokenizer, training=True, **arguments)
    for_evaluation = build_features(examples, tokenizer, training=False, **arguments)
    assert len(windows) == len(for_evaluation)
    seen, found = set(), 0
    for row, places in zip(windows, for_evaluation, strict=True):
        assert row["input_ids"] == places["input_ids"]
        assert len(row["input_ids"]) <= 48
        bounds = list(zip(places["offsets"][::2], places["offsets"][1::2], strict=True))
        seen.update(bounds)
        start, stop = row["start_positions"], row["end_positions"]
        if start:
            found += 1
            assert bounds[start - places["context_start"]][0] == begin
            assert bounds[stop - places["context_start"]][1] == end
        else:
            assert stop == 0
            assert (begin, end) != (bounds[0][0], bounds[-1][1])
            assert begin < bounds[0][0] or end > bounds[-1][1], "the answer is there, but was not found"
    assert seen == set(spans)
    if last - first < max(stride, 1):
        assert found, "an answer no longer than what windows share is whole in one of them"


def test_an_answer_that_begins_within_a_token_takes_the_token(tokenizer):
    examples = as_dataset("the bridge", {"text": ["ridg"], "answer_start": [5]})
    [row] = build_features(examples, tokenizer, training=True, max_length=32, doc_stride=4, max_question_length=12)
    assert tokenizer.decode(row["input_ids"][row["start_positions"] : row["end_positions"] + 1]) == "bridge"


def test_a_question_without_answer_points_at_cls(tokenizer):
    [row] = build_features(
        as_dataset("the bridge", {"text": [], "answer_start": []}),
        tokenizer,
        training=True,
        max_length=40,
        doc_stride=4,
        max_question_length=12,
    )
    assert (row["start_positions"], row["end_positions"]) == (0, 0)


def test_a_long_question_is_truncated(tokenizer):
    [short] = shorten(["  what is old? " * 5], tokenizer, 6)
    assert short == "what is"
    assert shorten(["", "x"], tokenizer, 6) == ["", "x"]


@pytest.mark.parametrize("arguments", [{"doc_stride": 13}, {"doc_stride": -1}, {"max_length": 20, "doc_stride": 1}])
def test_a_stride_that_is_too_large_is_an_error(tokenizer, arguments):
    examples = as_dataset("the bridge", {"text": [], "answer_start": []})
    with pytest.raises(ValueError, match="less than the context's part of a window"):
        build_features(
            examples, tokenizer, training=True, **{"max_length": 32, "max_question_length": 16, **arguments}
        )
