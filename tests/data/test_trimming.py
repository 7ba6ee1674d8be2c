"""Trimmed tokenizers of all kinds, against those that they were trimmed from."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from mobilebert_hf.data.trimming import parse_keep, read_texts, trim_tokenizer

from .tokenizers_of_all_kinds import ENGLISH, GERMAN, KINDS, byte_level_bpe, edited, sentences, wordpiece, xlm_roberta

CORPUS = sentences(GERMAN, seed=1)


@pytest.fixture(
    scope="module",
    params=[(make, keep) for make in KINDS for keep in (1.0, 0.9)],
    ids=lambda case: f"{case[0].__name__}-{case[1]}",
)
def pair(request):
    """A tokenizer, and what is left of it on the German corpus."""
    make, keep = request.param
    tokenizer = make()
    return tokenizer, trim_tokenizer(tokenizer, lambda: iter(CORPUS), keep)


def test_pieces_and_special_tokens_keep_their_meaning(pair):
    tokenizer, trimmed = pair
    size = trimmed.tokenizer.get_vocab_size()
    assert size == len(trimmed.ids) < tokenizer.get_vocab_size()
    assert sorted(trimmed.tokenizer.get_vocab().values()) == list(range(size))
    for index, former in enumerate(trimmed.ids):
        assert trimmed.tokenizer.id_to_token(index) == tokenizer.id_to_token(former)
    before, after = tokenizer.get_added_tokens_decoder(), trimmed.tokenizer.get_added_tokens_decoder()
    assert {trimmed.ids[index]: str(token) for index, token in after.items()} == {
        index: str(token) for index, token in before.items()
    }
    first, second = CORPUS[:2]
    for read in ((first,), (first, second)):
        added = [tokenizer.encode(*read).ids, [trimmed.ids[index] for index in trimmed.tokenizer.encode(*read).ids]]
        if tokenizer.post_processor is not None:
            assert added[0][0] == added[1][0]
            assert added[0][-1] == added[1][-1]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from([*GERMAN, *(word + "." for word in GERMAN)]), min_size=1, max_size=8))
def test_texts_of_the_corpus_come_back(pair, words):
    tokenizer, trimmed = pair
    text = " ".join(words)
    before, after = (one.encode(text, add_special_tokens=False) for one in (tokenizer, trimmed.tokenizer))
    assert trimmed.tokenizer.decode(after.ids, skip_special_tokens=False) == tokenizer.decode(
        before.ids, skip_special_tokens=False
    )
    if set(before.ids) <= set(trimmed.ids):
        assert [trimmed.ids[index] for index in after.ids] == before.ids


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from([*GERMAN, *ENGLISH, "αβγ", "river-漢"]), min_size=1, max_size=6))
def test_any_text_of_kept_pieces_is_tokenized_as_before(pair, words):
    tokenizer, trimmed = pair
    before = tokenizer.encode(" ".join(words)).ids
    if set(before) <= set(trimmed.ids):
        assert [trimmed.ids[index] for index in trimmed.tokenizer.encode(" ".join(words)).ids] == before


def test_counts_are_those_of_the_corpus(pair):
    tokenizer, trimmed = pair
    before, after = (
        [one.encode(text, add_special_tokens=False).ids for text in CORPUS] for one in (tokenizer, trimmed.tokenizer)
    )
    counts = trimmed.counts
    assert counts.texts == len(CORPUS)
    assert counts.tokens == [sum(map(len, before)), sum(map(len, after))]
    assert counts.longer_texts == sum(len(late) > len(early) for early, late in zip(before, after, strict=True))
    assert counts.unknown[0] == counts.unknown[1]


def test_the_share_of_the_tokens_decides(pair):
    tokenizer, trimmed = pair
    tokens = [index for text in CORPUS for index in tokenizer.encode(text, add_special_tokens=False).ids]
    assert sum(index in set(trimmed.ids) for index in tokens) >= 0.9 * len(tokens)
    if trimmed.counts.longer_texts:
        assert trimmed.counts.tokens[1] > trimmed.counts.tokens[0]
    elif set(tokens) <= set(trimmed.ids):
        assert trimmed.counts.tokens[0] == trimmed.counts.tokens[1]


def test_a_number_of_pieces():
    tokenizer = xlm_roberta()
    trimmed = trim_tokenizer(tokenizer, lambda: iter(CORPUS), 70)
    assert len(trimmed.ids) == 70
    with pytest.raises(ValueError, match=r"is 20, but special tokens.*already need \d+"):
        trim_tokenizer(tokenizer, lambda: iter(CORPUS), 20)


def test_special_tokens_stay_where_they_are():
    """Models number positions from the padding id on, and some tokenizer classes know ids by heart."""
    for tokenizer in (wordpiece(), xlm_roberta(), byte_level_bpe()):
        trimmed = trim_tokenizer(tokenizer, lambda: iter(CORPUS), 0.9).tokenizer
        for index, token in tokenizer.get_added_tokens_decoder().items():
            assert trimmed.token_to_id(str(token)) == min(index, trimmed.get_vocab_size() - 1)


def test_words_that_only_some_pieces_can_write_keep_them():
    """Greedy WordPiece may take a piece that leaves no way on. Here `##b` is no piece."""
    vocabulary = {
        piece: index for index, piece in enumerate(["[UNK]", "a", "b", "c", "ab", "##c", "abc", "##bc", "x"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    corpus = ["x " * 50 + "abc abcc"]
    trimmed = trim_tokenizer(tokenizer, lambda: iter(corpus), 0.9)
    assert trimmed.counts.unknown == [0, 0]
    assert trimmed.tokenizer.decode(trimmed.tokenizer.encode(corpus[0]).ids) == tokenizer.decode(
        tokenizer.encode(corpus[0]).ids
    )


def test_prompts_and_ids_that_are_required_stay():
    tokenizer = xlm_roberta()
    text = "unbelievable mountains"
    unused = tokenizer.token_to_id("▁often")
    trimmed = trim_tokenizer(tokenizer, lambda: iter(CORPUS), 0.5, prompts=[text], required=[unused])
    before = tokenizer.encode(text).ids
    assert [trimmed.ids[index] for index in trimmed.tokenizer.encode(text).ids] == before
    assert unused in trimmed.ids


def test_padding_follows():
    tokenizer = wordpiece()
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[MASK]"), pad_token="[MASK]", length=40)
    trimmed = trim_tokenizer(tokenizer, lambda: iter(CORPUS), 0.9)
    assert trimmed.tokenizer.padding["pad_id"] == trimmed.tokenizer.token_to_id("[MASK]")
    assert len(trimmed.tokenizer.encode(CORPUS[0]).ids) == 40


def test_special_tokens_in_the_corpus_are_text():
    tokenizer = xlm_roberta()
    trimmed = trim_tokenizer(tokenizer, lambda: iter([*CORPUS, "<mask> der Berg"]), 1.0)
    assert trimmed.counts.tokens[0] > sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in CORPUS) + 3


def test_the_corpus_is_read_by_paragraph(tmp_path):
    (tmp_path / "a.txt").write_text("Der Berg.\nDie Zelle.\n\nDas Dorf.\n", encoding="utf-8")
    texts = read_texts([str(tmp_path)])
    assert list(texts()) == list(texts()) == ["Der Berg.", "Die Zelle.", "Das Dorf."]
    with pytest.raises(ValueError, match="has no tokens"):
        trim_tokenizer(xlm_roberta(), lambda: iter([" "]), 1.0)


@pytest.mark.parametrize(("given_value", "expected"), [("0.9995", 0.9995), ("20000", 20000), (1.0, 1.0), (300, 300)])
def test_what_to_keep(given_value, expected):
    assert parse_keep(given_value) == expected
    assert type(parse_keep(given_value)) is type(expected)


@pytest.mark.parametrize("value", ["all", "0", "-1", "1.5", "nan", 0.0])
def test_what_to_keep_must_be_a_share_or_a_number(value):
    with pytest.raises(ValueError, match=f"keep is {value!r}: expected a share"):
        parse_keep(value)


def test_pieces_may_occur_twice():
    doubled = edited(xlm_roberta(), lambda content: content["model"]["vocab"].append(["▁der", -3.0]))
    trimmed = trim_tokenizer(doubled, lambda: iter(CORPUS), 1.0)
    after = trimmed.tokenizer.encode("der Berg").ids
    assert [trimmed.ids[index] for index in after] == doubled.encode("der Berg").ids


def test_whole_words():
    tokenizer = Tokenizer(models.WordLevel({"Berg": 0, "river": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trimmed = trim_tokenizer(tokenizer, lambda: iter(["der Berg"]), 1.0)
    assert trimmed.tokenizer.get_vocab() == {"Berg": 0, "[UNK]": 1}
