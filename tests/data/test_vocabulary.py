import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, BertTokenizer

from mobilebert_hf.data import check_vocabulary, load_tokenizer, train_wordpiece
from mobilebert_hf.data.vocabulary import check_unknown_tokens, encode, measure_unknown
from mobilebert_hf.data.vocabulary_file import write_vocabulary

from ..workshop import in_fork


def test_saved_tokenizer_loads_with_auto_tokenizer(tokenizer, corpus_file, tmp_path):
    train_wordpiece([str(corpus_file)], 120, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, BertTokenizer)
    assert loaded.model_max_length == 512
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "BertTokenizer"
    pair = loaded("The River", "often")
    assert loaded.decode(pair["input_ids"]) == "[CLS] the river [SEP] often [SEP]"
    first = len(loaded("The River")["input_ids"])
    assert pair["token_type_ids"] == [0] * first + [1] * (len(pair["input_ids"]) - first)
    assert (tmp_path / "vocab.txt").read_text().splitlines() == loaded.convert_ids_to_tokens(range(len(loaded)))


def test_training_gives_the_same_vocabulary_in_another_process(tokenizer, corpus_file, tmp_path):
    # Which hashes strings with a seed of its own, so that sets are in another order.
    in_fork(train_wordpiece, [str(corpus_file)], 120, tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_cased_and_multilingual_text(tmp_path):
    (tmp_path / "a.txt").write_text("Ünder der Brücke. Ünder der Brücke.\n中文句子。中文句子。\n")
    cased = train_wordpiece([str(tmp_path / "a.txt")], 80, tmp_path / "cased", lowercase=False)
    assert cased.tokenize("Ünder") == ["Ünder"]
    assert "##中" not in cased.get_vocab()
    assert "##." not in cased.get_vocab()
    lower = train_wordpiece([str(tmp_path / "a.txt")], 80, tmp_path / "lower")
    assert lower.tokenize("Ünder") == ["ünder"]
    stripped = train_wordpiece([str(tmp_path / "a.txt")], 80, tmp_path / "stripped", strip_accents=True)
    assert AutoTokenizer.from_pretrained(tmp_path / "stripped").tokenize("Ünder") == ["under"]
    assert stripped.tokenize("Ünder") == ["under"]


def test_vocabulary_smaller_than_the_alphabet(corpus_file, tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size is 20.*already need \d+"):
        train_wordpiece([str(corpus_file)], 20, tmp_path)


@pytest.mark.parametrize(("extra", "lowercase"), [("river", True), ("River", False)])
def test_vocabulary_file_without_tokenizer_config(tmp_path, extra, lowercase):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", extra]) + "\n")
    for source in (tmp_path, tmp_path / "vocab.txt"):
        loaded = load_tokenizer(source)
        assert loaded.do_lower_case is lowercase
        assert loaded("River")["input_ids"] == [2, 5, 3]


def test_missing_tokenizer(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        load_tokenizer(tmp_path / "missing")


def test_special_tokens_in_text_are_split(tokenizer):
    assert tokenizer.sep_token_id not in encode(["a [SEP] river"], tokenizer)[0]


def test_check_vocabulary_names_both_values(tokenizer):
    check_vocabulary(tokenizer, SimpleNamespace(vocab_size=len(tokenizer), pad_token_id=0))
    with pytest.raises(
        ValueError, match=rf"has {len(tokenizer)} tokens, but the model's vocab_size is 50.*set vocab_size"
    ):
        check_vocabulary(tokenizer, SimpleNamespace(vocab_size=50, pad_token_id=0))
    with pytest.raises(ValueError, match=r"\[PAD\] has id 0, but the model's pad_token_id is 7"):
        check_vocabulary(tokenizer, SimpleNamespace(vocab_size=500, pad_token_id=7))


@pytest.mark.parametrize("name", ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"])
def test_check_vocabulary_names_missing_special_tokens(tokenizer, name):
    broken = BertTokenizer(vocab=tokenizer.get_vocab())
    setattr(broken, name, None)
    with pytest.raises(ValueError, match=f"the tokenizer has no {name}"):
        check_vocabulary(broken, SimpleNamespace(vocab_size=500, pad_token_id=0))


def test_too_many_unknown_tokens(tokenizer):
    check_unknown_tokens(["the river begins"], tokenizer)
    with pytest.raises(ValueError, match=r"75% of the tokens in a sample of 2 documents are \[UNK\]"):
        check_unknown_tokens(["the", "江河山"], tokenizer)
    with pytest.raises(ValueError, match="has no tokens"):
        check_unknown_tokens(["\u200b"], tokenizer)


SENTENCES = {
    "Hindi": "अपने पोस्ट में हिन्दी की किताबें हैं",
    "Bengali": "বাংলাদেশের ভাষা আন্দোলন ছিল",
    "Thai": "ภาษาไทย เป็น ภาษา ที่ มี วรรณยุกต์",
    "Vietnamese": "tiếng việt có nhiều dấu thanh",
    "Ukrainian": "їжак і ґедзь у київському лісі",  # noqa: RUF001
    "German": "füße und bäume über größeren straßen",
    "Arabic": "اللُّغَةُ العَرَبِيَّةُ جميلة",
    "Korean": "한국어 문장을 읽습니다",
    "Chinese": "中 文 句 子 很 多",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_text_of_other_languages_comes_back(tmp_path, language, caplog):
    text = SENTENCES[language]
    (tmp_path / "a.txt").write_text("\n\n".join([text] * 25))
    train_wordpiece([str(tmp_path / "a.txt")], 300, tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text
    assert "1 held-out documents: 0.00% of" in caplog.text


def test_the_alphabet_covers_the_corpus(tmp_path):
    characters = [chr(0x4E00 + index) for index in range(1500)]
    text = "".join(characters) * 2 + "".join(characters[:1000]) * 50
    (tmp_path / "a.txt").write_text(text)
    everything = train_wordpiece([str(tmp_path / "a.txt")], 4000, tmp_path / "all", character_coverage=1)
    assert set(characters) <= set(everything.get_vocab())
    train_wordpiece([str(tmp_path / "a.txt")], 4000, tmp_path / "most", character_coverage=0.95)
    assert len(load_tokenizer(tmp_path / "most")) < 1010
    with pytest.raises(ValueError, match="or a smaller character_coverage than"):
        train_wordpiece([str(tmp_path / "a.txt")], 1200, tmp_path / "small")
    with pytest.raises(ValueError, match=r"character_coverage is 1\.5: expected a share"):
        train_wordpiece([str(tmp_path / "a.txt")], 4000, tmp_path / "wrong", character_coverage=1.5)


def test_unknown_pieces_are_named(tokenizer):
    unknown = measure_unknown(["the river 江 江 河", "the " + "a" * 120], tokenizer)
    assert unknown.pieces.most_common(2) == [("江", 2), ("河", 1)]
    assert "a word of 120 characters" in str(unknown)
    assert unknown.share == 4 / unknown.tokens


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("lines", "end", "unused"),
    [
        ([*SPECIAL, "a", "b", "c"], "\n", []),
        ([*SPECIAL, "a", "", "b", "b", "c"], "\n", [6, 7]),
        ([*SPECIAL, "a", "\u2028", "\x85", "\u00a0", "b", "c"], "\n", []),
        ([*SPECIAL, "a", "", "b", "c"], "\r\n", [6]),
        ([*SPECIAL, "a ", "b", "c"], "\n", []),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_ids_are_line_numbers_in_both_directions(tmp_path, lines, end, unused, last, caplog):
    (tmp_path / "vocab.txt").write_bytes((end.join(lines) + (end if last else "")).encode())
    loaded = load_tokenizer(tmp_path / "vocab.txt")
    assert len(loaded) == len(lines)
    write_vocabulary(loaded.get_vocab(), tmp_path / "again.txt")
    again = (tmp_path / "again.txt").read_bytes().decode().split("\n")[:-1]
    for index, line in enumerate(lines):
        expected = f"[unused line {index + 1}]" if index in unused else line.strip(" ")
        assert loaded.convert_ids_to_tokens(index) == again[index] == expected
    assert ("ids stay unused" in caplog.text) is bool(unused)
    assert loaded.tokenize("[unused line 7]") != ["[unused line 7]"]


@pytest.mark.parametrize(
    ("words", "text", "tokens"),
    [
        (["अपने", "पोस्ट"], "अपने पोस्ट", ["अपने", "पोस्ट"]),
        (["über", "fluss"], "Über Fluss", ["über", "fluss"]),
        (["uber", "fluss"], "Über Fluss", ["uber", "fluss"]),
        (["Über", "fluss"], "Über fluss", ["Über", "fluss"]),
    ],
)
def test_a_bare_vocabulary_file_says_how_text_is_normalized(tmp_path, words, text, tokens):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")
    assert load_tokenizer(tmp_path / "vocab.txt").tokenize(text) == tokens


def test_a_vocabulary_file_without_tokens_is_refused(tmp_path):
    for content, message in ((b"\n\n", "has no tokens"), (b"\xff\n", "is not UTF-8")):
        (tmp_path / "vocab.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path / "vocab.txt")
