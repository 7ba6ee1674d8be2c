"""Small teachers of several families, as models and, with a tokenizer, as folders."""

import json

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.distillation import DistillationArguments, StudentArguments, distill

from ..helpers import training_arguments

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DISTILBERT = {
    "vocab_size": 100,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 64,
    "max_position_embeddings": 64,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
FAMILIES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "DistilBert": DISTILBERT,
    "Electra": {**SIZES, "embedding_size": 16},
    "MPNet": SIZES,
    "ModernBert": {**SIZES, **TOKENS},
    "Albert": {**SIZES, "embedding_size": 16, "num_hidden_groups": 1},
    "DebertaV2": {**SIZES, "conv_kernel_size": 3, "relative_attention": True, "position_biased_input": False},
    "EuroBert": {**SIZES, "num_key_value_heads": 2},
    "NomicBert": SIZES,
}
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CLS = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
TEXT = "the a of to in is and cat dog sat on mat saw another plane takes off people music river city old red"
WORDS = TEXT.split()
PREFIX = "sentence_transformers.models."


def build(family, head="Model", **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**FAMILIES.get(family, SIZES), **changes})
    return getattr(transformers, f"{family}{head}")(config).eval()


def random_batch(rows=8, length=12, vocab=90):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    ids = torch.randint(5, vocab, (rows, length), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def save_modules(folder, kinds=("Pooling", "Normalize"), pooling=MEAN, prefix=PREFIX, transformer="", **settings):
    """The files of sentence-transformers; `settings` are those of the whole model, such as prompts."""
    rows = [{"idx": 0, "name": "0", "path": transformer, "type": f"{prefix}Transformer"}]
    for index, kind in enumerate(kinds, 1):
        path = folder / f"{index}_{kind}"
        path.mkdir()
        rows.append({"idx": index, "name": str(index), "path": path.name, "type": f"{prefix}{kind}"})
        if kind == "Pooling":
            (path / "config.json").write_text(json.dumps(pooling))
        if kind == "Dense":
            save_dense(path)
    (folder / "modules.json").write_text(json.dumps(rows))
    limits = {name: settings.pop(name) for name in ("max_seq_length", "do_lower_case") if name in settings}
    (folder / transformer / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, **limits}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def save_dense(folder, width=32, dimensions=16, file="model.safetensors"):
    generator = torch.Generator().manual_seed(0)
    weights = {"linear.weight": torch.randn(dimensions, width, generator=generator) / 6, "linear.bias": torch.ones(16)}
    activation = "torch.nn.modules.activation.Tanh"
    sizes = {"in_features": width, "out_features": dimensions, "bias": True, "activation_function": activation}
    (folder / "config.json").write_text(json.dumps(sizes))
    if file.endswith(".bin"):
        torch.save(weights, folder / file)
    else:
        save_file(weights, folder / file)


def unigram_tokenizer():
    """A tokenizer like XLM-R's: padding is 1, there are no token types, and the mask is <mask>."""
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    words = [(f"\u2581{word}", -3.0 - index / 50) for index, word in enumerate(WORDS)]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz.,?"]
    vocab = [*special, *words, ("\u2581", -8.0), *letters, ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=64)


def byte_tokenizer():
    """A tokenizer like RoBERTa's, of bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    state = json.loads(bpe.to_str())["model"]
    vocab = {**state["vocab"], "<mask>": len(state["vocab"])}
    merges = [tuple(merge) for merge in state["merges"]]
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=64)


def save_teacher(folder, tokenizer, family="Bert", head="Model", sentence_encoder=False, dtype=None, **changes):
    """A teacher with random weights that are large enough for its layers to differ."""
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.2}
    shards = changes.pop("max_shard_size", "1GB")
    model = build(family, head, **{**ids, **changes})
    model.to(dtype or torch.float32).save_pretrained(folder, max_shard_size=shards)
    tokenizer.save_pretrained(folder)
    if sentence_encoder:
        save_modules(folder)
    return folder


def run_distillation(teacher, corpus, folder, steps=30, **changes):
    """A short run of the recipe; `changes` are fields of any of its arguments."""
    student = {name: changes.pop(name) for name in list(changes) if name in StudentArguments.__dataclass_fields__}
    data = {name: changes.pop(name) for name in list(changes) if name in PretrainingDataArguments.__dataclass_fields__}
    overrides = {"intra_bottleneck_size": 16, "intermediate_size": 32, "embedding_size": 16, "num_attention_heads": 2}
    return distill(
        StudentArguments(**{"teacher": str(teacher), "size": "small", "config_overrides": overrides, **student}),
        PretrainingDataArguments(
            corpus=[str(corpus)],
            **{"max_seq_length": 24, "validation_fraction": 0.1, "cache_dir": str(folder / "cache"), **data},
        ),
        training_arguments(
            DistillationArguments,
            folder / "student",
            **{**({} if "minutes" in changes else {"distillation_steps": steps}), "report_to": "none", **changes},
        ),
    )
