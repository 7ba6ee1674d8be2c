from dataclasses import fields, replace
from random import Random

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer, HfArgumentParser

from mobilebert_hf.data import PretrainingCollator, PretrainingDataArguments, prepare_pretraining_data
from mobilebert_hf.data import pretraining as module
from mobilebert_hf.data.pairs import IS_NEXT, Document, PairSettings, build_pairs, make_examples, split_sentences

from .helpers import write_corpus


def arguments(corpus_file, tmp_path, **changes) -> PretrainingDataArguments:
    return PretrainingDataArguments(corpus=[str(corpus_file)], **{"cache_dir": str(tmp_path / "cache"), **changes})


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("He met J. Smith of the U.S. Army. Then left.", ["He met J. Smith of the U.S. Army.", "Then left."]),
        ("It cost 3.14 e.g. in town. 5 more.", ["It cost 3.14 e.g. in town.", "5 more."]),
        ("“Go on.” She went… (Really.) Yes.", ["“Go on.”", "She went…", "(Really.)", "Yes."]),
        ("今天天气好。我们走吧！「好。」他说", ["今天天气好。", "我们走吧！", "「好。」", "他说"]),  # noqa: RUF001
        ("  ", []),
        ("...", ["..."]),
    ],
)
def test_sentences(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


# --- pairs: token 1000 * d + i is token i of document d, so that a segment identifies its document


def make_documents(lengths: list[list[int]], longest: int) -> list[Document]:
    return [
        Document.from_lengths(1000 * (place + 1) + np.arange(sum(document)), document, longest)
        for place, document in enumerate(lengths)
    ]


def pair_settings(max_tokens: int, short: float = 0.1) -> PairSettings:
    return PairSettings(max_tokens + 3, short, 1, 0, 2, 3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=2, max_size=5),
    st.integers(5, 40),
    st.integers(),
)
def test_pairs_have_the_right_length_and_label(lengths, max_tokens, seed):
    documents = make_documents(lengths, max_tokens // 2)
    others = documents[1:]
    pairs = list(build_pairs(documents[0], lambda rng: rng.choice(others), pair_settings(max_tokens), Random(seed)))
    assert pairs
    for first, second, label in pairs:
        assert len(first) >= 1
        assert len(second) >= 1
        assert len(first) + len(second) <= max_tokens
        assert set(first // 1000) == {1}
        for segment in (first, second):
            assert (np.diff(segment) == 1).all()
        if label == IS_NEXT:
            assert set(second // 1000) == {1}
            assert second[0] > first[-1]
            if len(first) + len(second) < max_tokens:  # nothing was truncated
                assert second[0] == first[-1] + 1
        else:
            assert len(set(second // 1000) - {1}) == 1


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(5, 40), st.integers())
def test_replaced_sentences_are_used_in_the_next_pair(sentences, max_tokens, seed):
    documents = make_documents([[1] * sentences, [1] * 50], max_tokens)
    pairs = build_pairs(documents[0], lambda rng: documents[1], pair_settings(max_tokens), Random(seed))
    used = [token for a, b, label in pairs for token in [*a, *(b if label == IS_NEXT else [])]]
    assert used == list(documents[0].ids)


def test_about_half_of_the_pairs_are_random_and_a_tenth_short():
    documents = make_documents([[7] * 100, [7] * 100], 30)
    pairs = [
        pair
        for seed in range(200)
        for pair in build_pairs(documents[0], lambda rng: documents[1], pair_settings(60), Random(seed))
    ]
    assert np.mean([label for *_, label in pairs]) == pytest.approx(0.52, abs=0.04)
    assert np.mean([len(a) + len(b) < 50 for a, b, _ in pairs]) < 0.25


def test_documents_of_one_sentence_and_no_other_document():
    (document, other) = make_documents([[4], [4]], 10)
    settings = pair_settings(20)
    assert [label for *_, label in build_pairs(document, lambda rng: other, settings, Random(0))] == [1]
    assert not list(build_pairs(document, None, settings, Random(0)))


def test_text_without_punctuation_is_split():
    (document,) = make_documents([[995]], 30)
    assert max(np.diff(document.bounds)) <= 30
    pairs = build_pairs(document, None, pair_settings(60, short=0.0), Random(0))
    assert sum(len(a) + len(b) for a, b, _ in pairs) > 900


# --- raw text to examples


def test_examples_have_berts_structure(corpus_file, tmp_path, tokenizer):
    data = prepare_pretraining_data(arguments(corpus_file, tmp_path, max_seq_length=48), tokenizer)
    assert set(data) == {"train", "validation"}
    assert data["train"].column_names == ["input_ids", "token_type_ids", "next_sentence_label"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for row in data["train"]:
        ids, types = row["input_ids"], row["token_type_ids"]
        assert len(ids) == len(types) <= 48
        assert ids[0] == cls
        assert ids[-1] == sep
        assert [place for place, token in enumerate(ids) if token == sep] == [
            sum(t == 0 for t in types) - 1,
            len(ids) - 1,
        ]
        assert types == sorted(types)
    assert 0.4 < np.mean(data["train"]["next_sentence_label"][:]) < 0.75


@pytest.mark.parametrize("kind", ["sentences", "windows"])
def test_single_segments_contain_all_tokens_and_fit(corpus_file, tmp_path, tokenizer, kind):
    data = prepare_pretraining_data(arguments(corpus_file, tmp_path, max_seq_length=24, examples=kind), tokenizer)
    rows = list(data["train"])
    assert all(row["input_ids"][0] == tokenizer.cls_token_id for row in rows)
    assert all(row["input_ids"].count(tokenizer.sep_token_id) == 1 for row in rows)
    assert max(len(row["input_ids"]) for row in rows) <= 24
    assert {row["next_sentence_label"] for row in rows} == {-100}
    assert not any(any(row["token_type_ids"]) for row in rows)
    other = prepare_pretraining_data(
        arguments(corpus_file, tmp_path, max_seq_length=100, examples="sentences"), tokenizer
    )
    tokens = [sum(len(row["input_ids"]) - 2 for row in split["train"]) for split in (data, other)]
    assert tokens[0] == tokens[1], "every token of the documents is in one example"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(8, 40))
def test_windows_are_as_long_as_they_can_be(lengths, max_seq_length):
    ids = list(range(sum(lengths)))
    settings = replace(pair_settings(max_seq_length - 3), examples="windows")
    texts = make_examples({"input_ids": [ids], "sentence_lengths": [lengths]}, [0], settings=settings)["input_ids"]
    assert [token for text in texts for token in text[1:-1]] == ids
    bounds = set(Document.from_lengths(ids, lengths, max_seq_length - 2).bounds)
    end = 0
    for text in texts:
        start, end = end, end + len(text) - 2
        assert len(text) <= max_seq_length
        longer = [bound for bound in bounds if end < bound <= start + max_seq_length - 2]
        assert not longer, "another sentence would have fitted"


def test_mlm_probability_0_masks_nothing(corpus_file, tmp_path, tokenizer):
    rows = prepare_pretraining_data(arguments(corpus_file, tmp_path), tokenizer)["validation"]
    batch = PretrainingCollator(tokenizer, mlm_probability=0.0)([rows[0], rows[1]])
    assert batch["input_ids"][0][: len(rows[0]["input_ids"])].tolist() == rows[0]["input_ids"]
    assert (batch["labels"] == -100).all()


def test_same_examples_for_a_seed_and_any_number_of_processes(corpus_file, tmp_path, tokenizer):
    one = prepare_pretraining_data(arguments(corpus_file, tmp_path / "1", preprocessing_num_workers=1), tokenizer)
    two = prepare_pretraining_data(arguments(corpus_file, tmp_path / "2", preprocessing_num_workers=2), tokenizer)
    other = prepare_pretraining_data(arguments(corpus_file, tmp_path / "1", pairing_seed=1), tokenizer)
    for split in ("train", "validation"):
        assert one[split].to_dict() == two[split].to_dict()
        assert one[split].to_dict() != other[split].to_dict()


def test_dupe_factor_uses_each_document_again_and_differently(corpus_file, tmp_path, tokenizer):
    once = prepare_pretraining_data(arguments(corpus_file, tmp_path), tokenizer)["train"]
    thrice = prepare_pretraining_data(arguments(corpus_file, tmp_path, dupe_factor=3), tokenizer)["train"]
    assert len(thrice) == pytest.approx(3 * len(once), rel=0.15)
    assert len({tuple(ids) for ids in thrice["input_ids"]}) > 2.5 * len(once)


def test_a_second_call_reads_the_cache(corpus_file, tmp_path, tokenizer, monkeypatch):
    first = prepare_pretraining_data(arguments(corpus_file, tmp_path), tokenizer)

    def fail(*args, **kwargs):
        raise AssertionError("computed again")

    tokenizer(["padded", "and truncated, too"], padding=True, truncation=True, max_length=4)
    monkeypatch.setattr(module, "tokenize_documents", fail)
    changed = prepare_pretraining_data(arguments(corpus_file, tmp_path, pairing_seed=7), tokenizer)
    assert changed["train"].to_dict() != first["train"].to_dict()
    monkeypatch.setattr(module, "make_examples", fail)
    again = prepare_pretraining_data(arguments(corpus_file, tmp_path), tokenizer)
    assert again["train"].to_dict() == first["train"].to_dict()


def test_no_text_in_both_splits_even_if_documents_are_repeated(tmp_path, tokenizer):
    file = write_corpus(tmp_path / "a.txt", 30)
    file.write_text(file.read_text() + "\n" + file.read_text())
    documents = module.load_documents([str(file)], cache_dir=str(tmp_path / "cache"))
    tokens = module._tokenize(documents, arguments(file, tmp_path), tokenizer)
    train, validation = (set(part["digest"]) for part in module._split(tokens, 0.2))
    assert len(train) + len(validation) == 30
    assert not train & validation


def test_validation_corpus(corpus_file, tmp_path, tokenizer):
    held_out = write_corpus(tmp_path / "held_out.txt", 5, seed=9)
    own = arguments(corpus_file, tmp_path, validation_corpus=[str(held_out)])
    data = prepare_pretraining_data(own, tokenizer)
    part = prepare_pretraining_data(arguments(corpus_file, tmp_path), tokenizer)
    assert len(data["train"]) > len(part["train"])
    assert 0 < len(data["validation"]) < len(data["train"])


def test_too_few_documents(tmp_path, tokenizer):
    file = write_corpus(tmp_path / "a.txt", 3)
    with pytest.raises(ValueError, match=r"has 3 documents, of which validation takes 2.*blank lines"):
        prepare_pretraining_data(arguments(file, tmp_path), tokenizer)
    one = write_corpus(tmp_path / "b.txt", 1)
    with pytest.raises(ValueError, match="the train split has 1 document"):
        prepare_pretraining_data(arguments(one, tmp_path, validation_corpus=[str(file)]), tokenizer)


@pytest.mark.parametrize("streaming", [False, True])
def test_text_with_many_unknown_tokens(tmp_path, tokenizer, streaming):
    (tmp_path / "a.txt").write_text("\n\n".join(["江河山水 the"] * 6))
    with pytest.raises(ValueError, match=r"80% of the tokens.*train_wordpiece"):
        prepare_pretraining_data(arguments(tmp_path / "a.txt", tmp_path, streaming=streaming), tokenizer)


def test_documents_without_tokens(tmp_path, tokenizer):
    texts = ["\u200b\u200b"] * 7 + ["the river"] * 5
    Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"7 of the 12 documents of 'the corpus' have no text"):
        prepare_pretraining_data(arguments(tmp_path / "a.parquet", tmp_path), tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        {"max_seq_length": 4},
        {"validation_fraction": 1.0},
        {"short_seq_probability": -0.1},
        {"mlm_probability": 0.0},
        {"dupe_factor": 0},
        {"streaming_buffer_size": 1},
        {"encoding_errors": "ignore"},
        {"examples": "lines"},
    ],
)
def test_arguments_out_of_range(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}: expected"):
        PretrainingDataArguments(corpus=["a"], **change)


def test_arguments_make_a_command_line_with_help():
    (parsed,) = HfArgumentParser(PretrainingDataArguments).parse_args_into_dataclasses(
        ["--corpus", "a.txt", "b.txt", "--max_seq_length", "64", "--whole_word_mask"]
    )
    assert (parsed.corpus, parsed.max_seq_length, parsed.whole_word_mask) == (["a.txt", "b.txt"], 64, True)
    for item in fields(PretrainingDataArguments):
        assert item.metadata["help"]


# --- masking


@st.composite
def features(draw, vocabulary: int = 100):
    rows = draw(st.lists(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=30), min_size=1, max_size=6))
    return [{"input_ids": [2, *r, 3], "token_type_ids": [0] * (len(r) + 2), "next_sentence_label": 1} for r in rows]


@settings(max_examples=150, deadline=None)
@given(features(), st.booleans(), st.sampled_from([None, 8]), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_masking_never_touches_special_tokens_or_padding(tokenizer, rows, whole_word, multiple, probability, seed):
    collator = PretrainingCollator(tokenizer, probability, whole_word, multiple, seed)
    batch = collator(rows)
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label"]
    assert all(value.dtype == torch.int64 for value in batch.values())
    width = batch["input_ids"].shape[1]
    assert width % (multiple or 1) == 0
    special = set(tokenizer.all_special_ids)
    for row, ids, mask, labels in zip(rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = len(row["input_ids"])
        assert mask.tolist() == [1] * length + [0] * (width - length)
        original = row["input_ids"] + [tokenizer.pad_token_id] * (width - length)
        for before, after, label in zip(original, ids.tolist(), labels.tolist(), strict=True):
            if label == -100:
                assert after == before
            else:
                assert label == before
                assert before not in special
                assert after == tokenizer.mask_token_id or after not in special
        assert (labels != -100).any() == any(token not in special for token in row["input_ids"])
        if whole_word:
            assert_whole_words(row["input_ids"], labels.tolist(), tokenizer)


def assert_whole_words(ids, labels, tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(ids)
    for place in range(1, len(ids)):
        inside = tokens[place].startswith("##") and ids[place - 1] not in tokenizer.all_special_ids
        if inside:
            assert (labels[place] == -100) == (labels[place - 1] == -100)


@pytest.mark.parametrize("whole_word", [False, True])
def test_masking_fractions(tokenizer, whole_word):
    rng = Random(0)
    ids = [token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids]
    rows = [
        {"input_ids": [2, *rng.choices(ids, k=126), 3], "token_type_ids": [0] * 128, "next_sentence_label": 0}
        for _ in range(400)
    ]
    batch = PretrainingCollator(tokenizer, whole_word_mask=whole_word)(rows)
    original = torch.tensor([row["input_ids"] for row in rows])
    chosen = batch["labels"] != -100
    assert chosen[:, 1:-1].float().mean() == pytest.approx(0.15, abs=0.01)
    after = batch["input_ids"][chosen]
    assert (after == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.02)
    kept = (after == original[chosen]).float().mean()
    assert kept == pytest.approx(0.1 + 0.1 / len(ids), abs=0.015)


def test_masks_depend_only_on_seed_epoch_and_example(tokenizer):
    rng = Random(0)
    rows = [
        {"input_ids": [2, *rng.choices(range(5, 80), k=size), 3], "token_type_ids": [0] * (size + 2)}
        | {"next_sentence_label": 0}
        for size in (75, 40, 60)
    ]
    first = PretrainingCollator(tokenizer)(rows)
    for index, row in enumerate(rows):
        alone = PretrainingCollator(tokenizer)([row])
        length = len(row["input_ids"])
        assert torch.equal(alone["labels"][0], first["labels"][index, :length])
        assert torch.equal(alone["input_ids"][0], first["input_ids"][index, :length])
    for other in (PretrainingCollator(tokenizer, epoch=1), PretrainingCollator(tokenizer, seed=1)):
        assert not torch.equal(other(rows)["labels"], first["labels"])


def test_collator_refuses_tokenizers_it_cannot_mask_for(tokenizer):
    with pytest.raises(ValueError, match=r"mlm_probability is 1.5"):
        PretrainingCollator(tokenizer, mlm_probability=1.5)
    no_mask = BertTokenizer(vocab=tokenizer.get_vocab())
    no_mask.mask_token = None
    with pytest.raises(ValueError, match="mask token"):
        PretrainingCollator(no_mask)
    words_only = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "word": 5})
    with pytest.raises(ValueError, match="whole_word_mask needs a WordPiece vocabulary"):
        PretrainingCollator(words_only, whole_word_mask=True)


def test_validation_documents_that_are_trained_on_are_left_out(corpus_file, tmp_path, tokenizer, caplog):
    known = corpus_file.read_text().split("\n\n")[:3]
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("\n\n".join([*known, "The river begins.\nA cell.", "A theory explains.\nIt carries."]))
    both = arguments(corpus_file, tmp_path, validation_corpus=[str(held_out)])
    prepared = prepare_pretraining_data(both, tokenizer)
    assert "3 of 5 validation documents are also training documents: left out" in caplog.text
    assert 0 < len(prepared["validation"]) < 8
    held_out.write_text("\n\n".join(known))
    with pytest.raises(ValueError, match="3 of the 3 documents of validation_corpus are also in corpus"):
        prepare_pretraining_data(both, tokenizer)


def test_a_sample_of_the_documents_is_read(tmp_path, tiny_tokenizer):
    texts = [f"Document {index} is here. It has a second sentence, too." for index in range(200)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))

    whole = arguments(tmp_path / "corpus.txt", tmp_path, max_seq_length=32)
    sample = replace(whole, max_characters=40 * len(texts[0]))
    counts = [
        {split: len(rows) for split, rows in prepare_pretraining_data(each, tiny_tokenizer).items()}
        for each in (whole, sample, replace(sample, max_characters=10**6))
    ]
    assert counts[0] == counts[2]
    assert sum(counts[1].values()) == pytest.approx(sum(counts[0].values()) / 5, rel=0.2)
