"""Small tokenizers of all kinds, trained on text in two languages."""

import json
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ENGLISH = [
    *("the", "a", "river", "mountain", "engine", "theory", "cell", "market", "planet", "memory", "society", "atom"),
    *("begins", "carries", "explains", "measures", "slowly", "quickly", "often", "never", "strange", "bright"),
    *("ancient", "small", "large", "unbelievable", "measurement", "carrying", "explanation", "mountains"),
]
GERMAN = [
    *("der", "die", "das", "Fluss", "Berg", "Motor", "Theorie", "Zelle", "Markt", "Gedächtnis", "Gesellschaft"),
    *("beginnt", "erklärt", "misst", "langsam", "schnell", "größer", "Straße", "unglaublich", "Messungen"),
    *("Übergang", "Gebirge", "漢字", "Ärger", "über", "€", "naïve"),
]


def sentences(words, count=200, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(2, 12))) + "." for _ in range(count)]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", *(f"[unused{index}]" for index in range(20)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(ENGLISH) + sentences(GERMAN), trainer)
    names = {name: tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", names["[SEP]"]), ("[CLS]", names["[CLS]"]))
    # Trained as special, but ordinary pieces of BERT.
    return edited(tokenizer, lambda content: content.update(added_tokens=_without_unused(content["added_tokens"])))


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(ENGLISH) + sentences(GERMAN), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(["<added>"])
    return tokenizer


def word_end_bpe():
    """Characters, with the end of a word marked, as in CLIP."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(sentences(ENGLISH) + sentences(GERMAN), trainer)
    return tokenizer


def prefixed_bpe():
    """Characters, with those inside a word marked."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator(sentences(ENGLISH) + sentences(GERMAN), trainer)
    return tokenizer


def xlm_roberta():
    """Unigram, with the mask at the end."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(sentences(ENGLISH) + sentences(GERMAN), trainer)
    tokenizer = edited(tokenizer, lambda content: content["model"]["vocab"].append(["<mask>", 0.0]))
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def byte_fallback():
    """Unigram, with bytes for characters that are no pieces."""

    def add_bytes(content):
        lowest = min(score for _, score in content["model"]["vocab"])
        content["model"]["vocab"] += [[f"<0x{byte:02X}>", lowest - 1] for byte in range(256)]
        content["model"]["byte_fallback"] = True

    tokenizer = edited(xlm_roberta(), add_bytes)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def edited(tokenizer, edit):
    """A tokenizer whose `tokenizer.json` was edited by hand."""
    content = json.loads(tokenizer.to_str())
    edit(content)
    return Tokenizer.from_str(json.dumps(content))


def _without_unused(tokens):
    return [token for token in tokens if "unused" not in token["content"]]


KINDS = (wordpiece, byte_level_bpe, word_end_bpe, prefixed_bpe, xlm_roberta, byte_fallback)
