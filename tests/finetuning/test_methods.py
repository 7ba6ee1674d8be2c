"""Kinds of tasks: windows, merged predictions and decisions, beside the stock pipelines."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, pipeline

from mobilebert_hf.data.labelled import Examples
from mobilebert_hf.finetuning.methods import IGNORED, TagMethod, TextMethod
from mobilebert_hf.tasks.kinds import KINDS

from ..data.helpers import WORDS
from ..deployment.helpers import save

TAGS = ("B-X", "I-X", "O")


def examples_of(**columns):
    count = len(next(iter(columns.values())))
    return Examples("file", "line", list(range(1, count + 1)), columns)


def sentences(*lengths):
    rng = np.random.default_rng(0)
    return [rng.choice(WORDS.split(), length).tolist() for length in lengths]


def test_windows_label_every_word_at_its_first_piece(tiny_tokenizer):
    tokens = sentences(3, 60)
    labels = [[index % 3 for index in range(len(row))] for row in tokens]
    method = TagMethod(KINDS["tag"], TAGS, tiny_tokenizer, 16)
    encoded = method.encode(examples_of(tokens=tokens, label=labels))
    assert len(encoded.rows) > 5
    assert max(map(len, encoded.rows["input_ids"])) <= 16
    seen = [set() for _ in tokens]
    for window, row in zip(encoded.windows, encoded.rows, strict=True):
        labelled = [position for position, label in enumerate(row["labels"]) if label != IGNORED]
        assert labelled == window.positions.tolist()
        assert [row["labels"][at] for at in labelled] == [labels[window.example][word] for word in window.words]
        pieces = tiny_tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert not any(pieces[position].startswith("##") for position in labelled)
        seen[window.example] |= set(window.words.tolist())
    assert seen == [set(range(3)), set(range(60))]


def test_all_pieces_of_a_word_may_be_labelled(tiny_tokenizer):
    method = TagMethod(KINDS["tag"], TAGS, tiny_tokenizer, 16)
    examples = examples_of(tokens=[["mountainriver", "a"]], label=[[0, 2]])
    first = method.encode(examples).rows[0]["labels"]
    method.label_all_pieces = True
    every = method.encode(examples).rows[0]["labels"]
    assert first.count(0) == 1 < every.count(0)
    assert (first[0], first[-1], every[0], every[-1]) == (IGNORED,) * 4


def test_windows_are_merged_where_words_have_most_context(tiny_tokenizer):
    method = TagMethod(KINDS["tag"], TAGS, tiny_tokenizer, 16)
    encoded = method.encode(examples_of(tokens=sentences(40)))
    # The logits say in which window, and how far from its edge, a word was read.
    logits = []
    for number, window in enumerate(encoded.windows):
        values = np.zeros((16, 3))
        for position in window.positions:
            values[position] = [number + 1, min(position, window.positions[-1] - position), 0]
        logits.append(values)
    [merged] = method.merge(encoded, logits)
    assert (merged[:, 0] > 0).all(), "every word is decided"
    for word in range(40):
        margins = [
            min(position, window.positions[-1] - position)
            for window in encoded.windows
            for at, position in zip(window.words, window.positions, strict=True)
            if at == word
        ]
        assert merged[word, 1] == max(margins)


def test_tags_are_those_of_the_stock_pipeline(tiny_tokenizer, tmp_path):
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
    path = save(tmp_path / "model", tiny_tokenizer, "ForTokenClassification", **labels)
    method = TagMethod(KINDS["tag"], TAGS, tiny_tokenizer, 64)
    encoded = method.encode(examples_of(tokens=sentences(6, 9)))
    model = AutoModelForTokenClassification.from_pretrained(path).eval()
    with torch.inference_mode():
        batch = method.collator([dict(row) for row in encoded.rows])
        logits = model(**batch).logits.numpy()
    found = method.tags(encoded, logits)
    run = pipeline("token-classification", path, aggregation_strategy="first")
    for tokens, tags in zip(encoded.examples.columns["tokens"], found, strict=True):
        words = [word for group in run(" ".join(tokens)) for word in group["word"].split()]
        assert words == [token for token, tag in zip(tokens, tags, strict=True) if tag != "O"]


def test_answers_of_texts(tiny_tokenizer):
    sets = TextMethod(KINDS["multilabel"], ("a", "b"), tiny_tokenizer)
    data = sets.encode(examples_of(text=["the river"] * 4, label=[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    logits = np.array([[-1.0, 3.0], [-2.0, 5.0], [-3.0, 5.0], [-4.0, 3.0]])
    sets.tune(data, logits)
    assert sets.thresholds.tolist() == [-2.5, 4.0]
    assert sets.score(data, logits).metrics == {"macro_f1": 1.0, "micro_f1": 1.0}
    assert not sets.mistakes(data, logits)
    scores = TextMethod(KINDS["regress"], (), tiny_tokenizer)
    data = scores.encode(examples_of(text=["a", "b", "c"], label=[0.0, 1.0, 2.0]))
    [worst, *_] = scores.mistakes(data, np.array([[0.5], [3.0], [2.0]]))
    assert (worst.where, worst.expected, worst.predicted) == ("file, line 2", "1.000", "3.000")


@pytest.mark.parametrize("name", ["pairs", "rerank"])
def test_pairs_are_read_as_pairs_and_the_longer_text_is_cut(tiny_tokenizer, name):
    method = TextMethod(KINDS[name], ("no", "yes"), tiny_tokenizer, 16)
    long = " ".join(sentences(50)[0])
    [row] = method.encode(examples_of(text=["the river"], text_pair=[long])).rows
    assert tiny_tokenizer.decode(row["input_ids"]).startswith("[CLS] the river [SEP]")
    assert (len(row["input_ids"]), set(row["token_type_ids"])) == (16, {0, 1})
