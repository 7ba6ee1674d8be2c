"""Sentence encoders: what they do before and after their network, read and written by sentence-transformers."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..files import atomic_write_text, remove
from ..tasks.glue_scores import glue_scores
from ..tasks.glue_tasks import TASKS
from ..training.compat import find_file
from .loading import Consent, check_weights
from .networks import accepted_inputs

MODULES, TRANSFORMER, SETTINGS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
LIBRARY = "sentence_transformers."
# The modules after the network that a student is trained through. They need nothing of it but its last output.
KINDS = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
# The modes of pooling in the order in which several are combined, and their names in the files of all versions.
POOLING_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
READ_INPUTS = ("input_ids", "attention_mask")
BATCH_SIZE = 64


class SentenceModules(nn.Module):
    """What surrounds the network of a sentence encoder: prompts, tokenizer, pooling, dense layers, normalization.

    Frozen. Teacher and student share them, as their networks have outputs of the same width.

    Args:
        tokenizer: Its `model_max_length` is the maximum number of tokens of a text.
        steps: The modules of sentence-transformers after the network, in their order.
        prompts: What is put before a text, by the name of the use.
        default_prompt_name: The prompt of texts whose use is not named, if they have one.
        similarity: The name of the function that compares embeddings: cosine, dot, euclidean or manhattan.
        lower_case: Whether text is lower-cased before the tokenizer's own normalization.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        steps: Sequence[nn.Module],
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity: str = "cosine",
        lower_case: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer, self.steps = tokenizer, nn.ModuleList(steps)
        self.prompts, self.default_prompt_name = dict(prompts or {}), default_prompt_name
        self.similarity, self.lower_case = similarity, lower_case
        self.eval().requires_grad_(False)

    @property
    def default_prompt(self) -> str:
        """The prompt of texts whose use is not named; empty without one."""
        return self.prompts[self.default_prompt_name] if self.default_prompt_name else ""

    @property
    def training_prompts(self) -> tuple[str, ...]:
        """The prompts that texts are read with, each once; the empty one is a text without a prompt."""
        unnamed = [] if self.default_prompt_name else [""]
        return tuple(dict.fromkeys([*unnamed, *self.prompts.values()]))

    @property
    def compares_lengths(self) -> bool:
        """Whether the similarity depends on the lengths of embeddings."""
        return self.similarity != "cosine"

    def forward(self, states: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The embeddings of texts.

        Args:
            states: The last output of a network, [batch, seq, width].
            inputs: What the network read, with `input_ids` and `attention_mask` [batch, seq].

        Returns:
            float32 [batch, dimensions].
        """
        groups = self._by_prompt(inputs["input_ids"])
        if len(groups) == 1:
            return self._run(states, inputs, groups[0][0])
        embeddings = None
        for length, rows in groups:
            part = self._run(states[rows], {name: inputs[name][rows] for name in READ_INPUTS}, length)
            embeddings = part.new_zeros(len(states), part.shape[1]) if embeddings is None else embeddings
            embeddings = embeddings.index_put((rows,), part)
        assert embeddings is not None
        return embeddings

    def _run(self, states: Tensor, inputs: Mapping[str, Tensor], prompt_length: int) -> Tensor:
        features: dict[str, Any] = {name: inputs[name] for name in READ_INPUTS}
        features |= {"token_embeddings": states.float(), "prompt_length": prompt_length}
        for step in self.steps:
            features = step(features)
        return features["sentence_embedding"].float()

    def _by_prompt(self, ids: Tensor) -> list[tuple[int, Tensor]]:
        """Lengths of prompts that pooling leaves out, each with the indices of the texts that begin with it."""
        rest = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        groups = []
        leaves_out = any(not getattr(step, "include_prompt", True) for step in self.steps)
        for prompt in sorted(filter(None, self.training_prompts), key=len, reverse=True) if leaves_out else ():
            start = torch.tensor(self.tokenizer(prompt)["input_ids"][:-1], device=ids.device)
            if ids.shape[1] > len(start):
                found = rest & (ids[:, : len(start)] == start).all(1)
                groups.append((len(start), found.nonzero()[:, 0]))
                rest = rest & ~found
        groups.append((0, rest.nonzero()[:, 0]))
        return [(length, rows) for length, rows in groups if len(rows)]

    def dimensions(self, width: int) -> int:
        """The number of dimensions of embeddings, for a network with outputs of this width.

        Raises:
            ValueError: The modules do not take such outputs, or give no embedding.
        """
        ids = torch.zeros(2, 3, dtype=torch.long)
        try:
            return self(torch.zeros(2, 3, width), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).shape[1]
        except (KeyError, RuntimeError) as error:
            kinds = ", ".join(type(step).__name__ for step in self.steps) or "none"
            raise ValueError(
                f"The modules after the network ({kinds}) give no embedding of its output of width {width}: {error}"
            ) from error

    def limit(self, max_length: int) -> None:
        """Lowers the maximum number of tokens of a text."""
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, max_length)

    @torch.inference_mode()
    def encode(self, network: Any, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts with the default prompt: float32 [texts, dimensions], on the CPU.

        Args:
            network: From `input_ids` and the like to an output with `last_hidden_state`; a model, or a graph of one.
            texts: Any number above 0.
        """
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        parts = []
        for start in range(0, len(order), BATCH_SIZE):
            batch = [self.default_prompt + texts[index] for index in order[start : start + BATCH_SIZE]]
            inputs = self.tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(network.device)
            states = network(**accepted_inputs(network, inputs)).last_hidden_state
            self.to(states.device)
            parts.append(self(states, inputs).cpu())
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """The similarity of each row of two matrices [n, dimensions] of embeddings: [n]."""
        from sentence_transformers import SimilarityFunction

        return SimilarityFunction.to_similarity_pairwise_fn(self.similarity)(first, second)

    def save(self, folder: Path) -> None:
        """Writes the files of sentence-transformers beside a saved network and its tokenizer."""
        from sentence_transformers import SentenceTransformer, SimilarityFunction
        from sentence_transformers.sentence_transformer.modules import Transformer

        encoder = SentenceTransformer(
            modules=[Transformer(str(folder)), *self.steps],
            device="cpu",
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity_fn_name=SimilarityFunction(self.similarity),
        )
        with TemporaryDirectory(dir=folder) as staging:
            encoder.save(staging, create_model_card=False)
            rows = json.loads((Path(staging) / MODULES).read_text(encoding="utf-8"))
            for row, step in zip(rows[1:], self.steps, strict=True):
                _make_general(row, step, Path(staging) / row["path"])
                remove(folder / row["path"])
                os.replace(Path(staging) / row["path"], folder / row["path"])
            os.replace(Path(staging) / SETTINGS, folder / SETTINGS)
        settings = {"max_seq_length": self.tokenizer.model_max_length, "do_lower_case": self.lower_case}
        atomic_write_text(folder / TRANSFORMER, json.dumps(settings, indent=2))
        rows[0]["type"] = f"{LIBRARY}models.Transformer"
        atomic_write_text(folder / MODULES, json.dumps(rows, indent=2))


def load_sentence_modules(name: str, consent: Consent) -> SentenceModules:
    """What surrounds the network of a sentence encoder, as sentence-transformers reads it.

    Without `modules.json` that is the mean of the outputs.

    Args:
        name: Hub id or folder.
        consent: What its files may do.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: It has a module that a student cannot be trained through, or one that needs consent.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"{name} is a sentence encoder, which sentence-transformers reads: pip install "
            '"mobilebert-hf[sentence-transformers]"'
        ) from error
    _check_modules(name, consent)
    encoder = SentenceTransformer(
        name,
        device="cpu",
        trust_remote_code=consent.remote_code,
        model_kwargs={"dtype": torch.float32, "use_safetensors": None if consent.pickle else True},
    )
    tokenizer = encoder.tokenizer
    lower_case = bool(encoder[0].do_lower_case)
    if lower_case and "do_lower_case" in tokenizer.init_kwargs:
        # As sentence-transformers does it: accents stay, unless the tokenizer removes them anyway.
        options = {"do_lower_case": True, "strip_accents": bool(tokenizer.init_kwargs.get("strip_accents"))}
        tokenizer.init_kwargs.update(options)
        for option, value in options.items():
            setattr(tokenizer, option, value)  # these are what is saved
    return SentenceModules(
        tokenizer,
        list(encoder)[1:],
        {name: prompt or "" for name, prompt in encoder.prompts.items()},
        encoder.default_prompt_name,
        encoder.similarity_fn_name,
        lower_case,
    )


def network_folder(name: str) -> str:
    """The folder of the network in that of a sentence encoder; empty where they are the same."""
    rows = _read_modules(name)
    return str(rows[0]["path"]) if rows else ""


def _read_modules(name: str) -> list[dict[str, Any]]:
    path = find_file(name, MODULES)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else []


def _check_modules(name: str, consent: Consent) -> None:
    """Refuses what cannot be kept, before anything is loaded."""
    for index, row in enumerate(_read_modules(name)):
        kind, path = row["type"].rpartition(".")[2], row["path"]
        if not row["type"].startswith(LIBRARY):
            if not consent.remote_code:
                raise ValueError(
                    f"{name}: its module {row['type']} is Python code that comes with the model: read it, and allow "
                    "it with --trust_remote_code true."
                )
        elif kind not in (("Transformer",) if index == 0 else KINDS):
            expected = "a Transformer" if index == 0 else f"one of {', '.join(KINDS)}"
            raise ValueError(
                f"{name}: a student cannot be trained through its module {kind} ({path or 'in its folder'}): expected "
                f"{expected} there."
            )
        if path and kind != "Pooling":
            check_weights(name, consent, path)


def _make_general(row: dict[str, Any], step: Any, folder: Path) -> None:
    """Describes a module of the library as all its versions read it; newer ones have other names for the same."""
    kind = type(step).__name__
    if kind not in KINDS or not row["type"].startswith(LIBRARY):
        return
    row["type"] = f"{LIBRARY}models.{kind}"
    if kind != "Pooling":
        return
    modes = [step.pooling_mode] if isinstance(step.pooling_mode, str) else list(step.pooling_mode)
    if modes == [mode for mode in POOLING_MODES if mode in modes]:
        config = {"word_embedding_dimension": step.embedding_dimension, "include_prompt": step.include_prompt}
        config |= {f"pooling_mode_{key}": mode in modes for mode, key in POOLING_MODES.items()}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def mean_modules(tokenizer: PreTrainedTokenizerBase, width: int, max_length: int) -> SentenceModules:
    """The mean of the outputs of any network, for texts of at most `max_length` tokens."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = SentenceModules(copy.deepcopy(tokenizer), [Pooling(width, "mean")])
    modules.tokenizer.model_max_length = max_length
    return modules


def score_similarity(
    network: Any, modules: SentenceModules, pairs: Dataset, dimensions: Sequence[int | None] = (None,)
) -> list[float]:
    """Spearman's correlation, -1 to 1, of the embeddings' similarities with STS-B's labels; nothing is trained.

    Args:
        network: See `SentenceModules.encode`.
        modules: What surrounds it.
        pairs: A labelled split of `load_glue`.
        dimensions: How many of the embeddings' first dimensions are compared, None for all; a score for each.
    """
    first, second = (modules.encode(network, pairs[column][:]) for column in ("sentence1", "sentence2"))
    similarities = [modules.compare(first[:, :count], second[:, :count]).numpy() for count in dimensions]
    return [float(glue_scores(TASKS["stsb"], values, pairs["label"][:])["spearmanr"]) for values in similarities]
