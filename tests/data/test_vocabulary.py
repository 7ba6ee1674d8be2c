import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, BertTokenizer

from mobilebert_hf.data import check_vocabulary, load_tokenizer, train_wordpiece
from mobilebert_hf.data.vocabulary import check_unknown_tokens, encode

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
    assert lower.tokenize("Ünder") == ["under"]


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
