"""Trims the vocabulary of a model with its tokenizer: from a folder or Hub id to a folder that loads the same way."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .. import models
from ..files import atomic_write, atomic_write_text
from ..models.vocabulary_rows import select_vocabulary, token_ids
from .trimming import TextCounts, parse_keep, read_texts, trim_tokenizer
from .vocabulary import load_tokenizer

TRIMMING = "trimming.json"
MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# Not copied. Beside the model: its weights and its tokenizer, which are written anew, in all their forms. Anywhere:
# graphs and other formats with the whole vocabulary, and what training left.
REPLACED = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "tf_model*", "flax_model*", "rust_model*",
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "*.model", TRIMMING,
)  # fmt: skip
WHOLE_VOCABULARY = ("*.onnx", "*.onnx_data", "openvino_*", "*.tflite", "*.pte", "*.gguf", "*.mlmodel", "*.mlpackage")
LEFTOVERS = (".*", "checkpoint-*", "training_args.bin", "optimizer.pt")


@dataclass
class Trimming:
    """What was trimmed, and the sizes before and after; the content of `trimming.json`.

    Args:
        model (`str`): Hub id or folder.
        corpus (`list[str]`): the sources of the text.
        keep (`int` or `float`): see [`parse_keep`].
        pieces (`list[int]`): the number of pieces of the tokenizer.
        parameters (`list[int]`): the number of parameters of the model.
        megabytes (`list[float]`): the size of the parameters.
        counts (`TextCounts`): how the tokenizer reads the corpus.
        left_out (`list[str]`): files that were not copied, because they have the whole vocabulary, and weights in the
            files that the model does not have.
    """

    model: str
    corpus: list[str]
    keep: int | float
    pieces: list[int]
    parameters: list[int]
    megabytes: list[float]
    counts: TextCounts
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Trimming":
        """Reads `trimming.json`."""
        content = json.loads((folder / TRIMMING).read_text(encoding="utf-8"))
        return cls(**{**content, "counts": TextCounts(**content["counts"])})

    def rows(self) -> list[list[str]]:
        """The table of the sizes and counts."""
        counts = self.counts
        return [
            ["", "before", "after"],
            ["pieces", *(f"{number:,}" for number in self.pieces)],
            ["parameters", *(f"{number / 1e6:.1f}M" for number in self.parameters)],
            ["size", *(f"{number:.1f} MB" for number in self.megabytes)],
            ["tokens per text", *(f"{number / counts.texts:.2f}" for number in counts.tokens)],
            ["unknown tokens", *(f"{number:,}" for number in counts.unknown)],
            [f"longer texts, of {counts.texts:,}", "", f"{counts.longer_texts:,}"],
        ]


def trim_model(
    model: str,
    corpus: Sequence[str],
    keep: str | float,
    output: Path,
    *,
    text_column: str = "text",
    encoding_errors: str = "strict",
) -> Trimming:
    """Trims the vocabulary of a model to the pieces of a corpus and saves it with all its other files.

    Works for the models of transformers' Auto classes, and for folders of sentence-transformers, whose prompts keep
    their pieces.

    Args:
        model (`str`): Hub id or folder of a model with safetensors weights and a fast tokenizer.
        corpus (`Sequence[str]`): see [`load_documents`].
        keep (`str` or `float`): see [`parse_keep`].
        output (`Path`): folder for the trimmed model. It must not exist.
        text_column, encoding_errors (`str`, *optional*): see [`load_documents`].

    Returns:
        `Trimming`: also in `trimming.json` in the folder.

    Raises:
        FileNotFoundError: if there is no such model or corpus.
        FileExistsError: if `output` exists.
        ValueError: if `keep`, the corpus, the tokenizer or the model do not allow it.
    """
    share = parse_keep(keep)
    if output.exists():
        raise FileExistsError(f"{output} exists: choose a new folder")
    folder = _find_folder(model)
    source = folder / _transformer_path(folder)
    network, missing, unread = _load(source)
    tokenizer = load_tokenizer(source)
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: save one with a tokenizer.json")
    present = set(tokenizer.get_vocab().values())
    trimmed = trim_tokenizer(
        tokenizer.backend_tokenizer,
        read_texts(corpus, text_column, encoding_errors),
        share,
        prompts=_prompts(folder),
        required=sorted(token_ids(network.config) & present),
    )
    smaller = select_vocabulary(network, trimmed.ids)
    sizes = [[value for name, value in each.named_parameters() if name not in missing] for each in (network, smaller)]
    trimming = Trimming(
        model,
        list(corpus),
        share,
        [len(present), len(trimmed.ids)],
        [sum(value.numel() for value in values) for values in sizes],
        [sum(value.nbytes for value in values) / 1e6 for values in sizes],
        trimmed.counts,
    )
    with atomic_write(output) as staging:
        staging.mkdir(parents=True)
        trimming.left_out = [*_copy_others(folder, source, staging), *unread]
        target = staging / source.relative_to(folder)
        state = {name: value for name, value in smaller.state_dict().items() if name not in missing}
        smaller.save_pretrained(target, state_dict=state)
        tokenizer.save_pretrained(target)
        trimmed.tokenizer.save(str(target / "tokenizer.json"))
        vocabulary = trimmed.tokenizer.get_vocab()
        if (source / "vocab.txt").exists():
            pieces = sorted(vocabulary, key=vocabulary.__getitem__)
            (target / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        _check_tokenizer(target, vocabulary)
        atomic_write_text(staging / TRIMMING, json.dumps(asdict(trimming), indent=2) + "\n")
    return trimming


def _find_folder(model: str) -> Path:
    """The folder of a model; one of the Hub is downloaded, without other formats."""
    if Path(model).is_dir():
        return Path(model)
    # A star stands for folders, too: weights of other modules are in folders of their own.
    formats = ["pytorch_model*", "tf_model*", "flax_model*", "rust_model*", *(f"*{name}" for name in WHOLE_VOCABULARY)]
    return Path(snapshot_download(model, ignore_patterns=formats))


def _transformer_path(folder: Path) -> str:
    """The path of the model in a folder of sentence-transformers; "" in others."""
    if not (folder / MODULES).is_file():
        return ""
    modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
    path = modules[0]["path"] if modules else ""
    if not (folder / path / "config.json").is_file():
        raise ValueError(f"the first module of {folder} is not a model of transformers: it has no config.json")
    return path


def _prompts(folder: Path) -> list[str]:
    """The prompts of a folder of sentence-transformers."""
    path = folder / PROMPTS
    prompts = json.loads(path.read_text(encoding="utf-8")).get("prompts") if path.is_file() else None
    return [prompt for prompt in (prompts or {}).values() if prompt]


def _load(source: Path) -> tuple[PreTrainedModel, set[str], list[str]]:
    """A model as it was saved, and the names of weights that its files lack, and of those that only its files have."""
    network, info = _model_class(AutoConfig.from_pretrained(source)).from_pretrained(
        source, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    return network.eval(), set(info["missing_keys"]), sorted(info["unexpected_keys"])


def _model_class(config: PreTrainedConfig) -> Any:
    """The class that a configuration names, this package's before that of transformers."""
    if not config.architectures:
        return AutoModel
    name = config.architectures[0]
    found = getattr(models, name, None) or getattr(transformers, name, None)
    if found is None:
        raise ValueError(f"the model's class {name} is not in transformers {transformers.__version__}")
    return found


def _copy_others(folder: Path, source: Path, target: Path) -> list[str]:
    """Copies all files that do not depend on the vocabulary; returns the formats that were left out."""
    left_out = []
    for path in _walk(folder):
        name = path.relative_to(folder)
        if any(fnmatch(part, pattern) for part in name.parts for pattern in WHOLE_VOCABULARY):
            left_out.append(name.as_posix())
        elif path.parent != source or not any(fnmatch(path.name, pattern) for pattern in REPLACED):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    return left_out


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in LEFTOVERS):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _check_tokenizer(folder: Path, expected: dict[str, int]) -> None:
    """Some classes build their tokenizer from the pieces alone, each in its way."""
    loaded = load_tokenizer(folder)
    if loaded.get_vocab() != expected:
        raise ValueError(f"{type(loaded).__name__} cannot be trimmed: it does not load the pieces that were saved")
