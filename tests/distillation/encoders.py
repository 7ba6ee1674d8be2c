"""Small teachers of several families, as models and, with a tokenizer, as folders."""

import json

import torch
import transformers

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
}
NORMALIZED = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


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


def save_teacher(folder, tokenizer, family="Bert", head="Model", sentence_encoder=False, dtype=None, **changes):
    """A teacher with random weights that are large enough for its layers to differ."""
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.2}
    shards = changes.pop("max_shard_size", "1GB")
    model = build(family, head, **{**ids, **changes})
    model.to(dtype or torch.float32).save_pretrained(folder, max_shard_size=shards)
    tokenizer.save_pretrained(folder)
    if sentence_encoder:
        (folder / "modules.json").write_text(json.dumps(NORMALIZED))
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
            DistillationArguments, folder / "student", **{"distillation_steps": steps, "report_to": "none", **changes}
        ),
    )
