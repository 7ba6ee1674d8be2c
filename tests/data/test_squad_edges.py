"""Answers at the edges of tokens and windows, with real tokenizers and random Unicode."""

import pytest
from datasets import Dataset, disable_progress_bars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from mobilebert_hf.data.edges import visible
from mobilebert_hf.data.squad import EXAMPLES
from mobilebert_hf.data.squad_windows import build_features

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "born in paris , the city of naïve Müller",
    "a 10-year plan ½ ﬁn ❤️ 東京 ภาษา हिन्दी",
    "where ? Paris is big.",
] * 5


def fast(tokenizer):
    ids = [tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", list(zip(("[CLS]", "[SEP]"), ids, strict=True))
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))


def wordpiece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=lowercase)


def byte_level(trim_offsets=False):
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return fast(tokenizer)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="[UNK]")
    tokenizer.train_from_iterator(TEXTS, trainer)
    return fast(tokenizer)


TOKENIZERS = {
    "uncased": wordpiece(True),
    "cased": wordpiece(False),
    "byte-level": byte_level(),
    "unigram": unigram(),
}
HIDDEN = ["\u00a0", "\u200b", "\ufeff", "\u00ad", "\n", "\t", "\u2028", "\u200d"]
PIECES = st.one_of(
    st.sampled_from(
        [*HIDDEN, " ", " ", "\ufe0f", "❤\ufe0f", "paris", "naïve", "e\u0301", "½", "ﬁ", "東京", "10-year"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=4),
)


def example(context, answer, start, identifier="q"):
    answers = {"text": [answer], "answer_start": [start]}
    return {"id": identifier, "title": "", "context": context, "question": "where ?", "answers": answers}


def windows_of(rows, tokenizer, **changes):
    arguments = {"max_length": 64, "doc_stride": 20, "max_question_length": 12, **changes}
    examples = Dataset.from_list(rows, features=EXAMPLES)
    places = build_features(examples, tokenizer, training=False, **arguments)
    return build_features(examples, tokenizer, training=True, **arguments), places


@pytest.fixture(autouse=True)
def quiet():
    disable_progress_bars()


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=st.lists(PIECES, max_size=12), inside=st.lists(PIECES, min_size=1, max_size=4), after=st.lists(PIECES))
def test_the_labelled_tokens_are_those_of_the_visible_answer(name, before, inside, after):
    tokenizer = TOKENIZERS[name]
    before, inside, after = ("".join(part) for part in (before, inside, after))
    context = before + inside + after
    begin, end = visible(context, len(before), len(before) + len(inside))
    if begin == end:
        return
    spans = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = [visible(context, *span) for span in spans]
    touching = [index for index, (left, right) in enumerate(spans) if max(left, begin) < min(right, end)]
    arguments = {"max_length": 80, "doc_stride": 40}
    if not touching or touching[-1] - touching[0] >= 40:
        return  # test_answers_without_a_token_or_a_window_are_left_out
    windows, places = windows_of([example(context, context[begin:end], begin)], tokenizer, **arguments)
    assert any(windows["start_positions"])
    for row, place in zip(windows, places, strict=True):
        bounds = list(zip(place["offsets"][::2], place["offsets"][1::2], strict=True))
        if not row["start_positions"]:
            continue
        first, last = (row[edge] - place["context_start"] for edge in ("start_positions", "end_positions"))
        assert visible(context, *bounds[first]) == spans[touching[0]]
        assert visible(context, *bounds[last]) == spans[touching[-1]]
        assert last - first == touching[-1] - touching[0]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_hidden_characters_at_an_edge_change_nothing(name):
    contexts = [
        context.replace("paris", f"{edge}paris{edge}")
        for context in ("paris is big", "born in paris now", "born in paris")
        for edge in HIDDEN
    ]
    rows = [example(context, "paris", context.index("paris")) for context in contexts]
    windows, places = windows_of(rows, TOKENIZERS[name])
    for context, row, place in zip(contexts, windows, places, strict=True):
        first, last = (row[edge] - place["context_start"] for edge in ("start_positions", "end_positions"))
        begin, end = place["offsets"][2 * first], place["offsets"][2 * last + 1]
        assert context[slice(*visible(context, begin, end))] == "paris"


def test_answers_without_a_token_or_a_window_are_left_out(caplog):
    tokenizer = TOKENIZERS["uncased"]
    contexts = ["a \ue000 b", "the city " * 30, "born in paris"]
    answers = ["\ue000", ("the city " * 30).strip(), "paris"]
    rows = [
        example(context, answer, context.index(answer), f"q{index}")
        for index, (context, answer) in enumerate(zip(contexts, answers, strict=True))
    ]
    arguments = {"training": True, "max_length": 40, "doc_stride": 8, "max_question_length": 12}
    windows = build_features(Dataset.from_list(rows, features=EXAMPLES), tokenizer, **arguments)
    assert len(windows) == 1
    assert windows["start_positions"][0] > 0
    assert "2 of 3 answers" in caplog.text
    assert "questions 'q0', 'q1'" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 2 answers .* Set a larger max_length"):
        build_features(Dataset.from_list(rows[:2], features=EXAMPLES), tokenizer, **arguments)


@pytest.mark.parametrize("name", ["uncased", "cased", "byte-level"])  # Unigram has a piece for them
def test_special_tokens_in_the_text_are_text(name):
    tokenizer = TOKENIZERS[name]
    [row], [place] = windows_of([example("the [SEP] city of [CLS] paris", "paris", 24)], tokenizer)
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert sum(token in special for token in row["input_ids"]) == 3
    assert place["offsets"][1] <= 3
