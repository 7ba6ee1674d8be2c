"""Publishes a model folder on the Hub: weights, code, exports, card and scores in one commit."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx, validate_repo_id
from transformers import AutoTokenizer

from ..deployment.student import load_student
from ..runs.exports import MANIFEST, fingerprint, graph_files, graph_size, read_manifest, write_manifest
from ..runs.facts import FACTS, PICTURE, ModelFacts, ModelRecord
from ..runs.run_folder import RECIPE, Recipe
from .card import CARD, eval_results, render_card
from .checks import check_contents, check_names
from .remote_code import add_remote_code
from .run_card import build_card, is_own_card, remove_local_paths

# Files of a run folder that are published.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
FILES = (
    *WEIGHTS,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    CARD,
    FACTS,
    PICTURE,
    RECIPE,
    "results.json",
    "eval_results.json",
    "*.py",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    # The modules of a sentence encoder after its network, such as 1_Pooling and 2_Dense.
    "[0-9]_*/config.json",
    "[0-9]_*/model.safetensors",
)


@dataclass(frozen=True)
class Publication:
    """Files to publish.

    Args:
        repo: Hub id, `organization/name`.
        files: Local files by path in the repository.
    """

    repo: str
    files: Mapping[str, Path]

    @property
    def rows(self) -> list[list[str]]:
        """Table of files and sizes, heading first."""
        sizes = {name: path.stat().st_size for name, path in sorted(self.files.items())}
        rows = [[name, f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} B"] for name, size in sizes.items()]
        return [[self.repo, "size"], *rows, ["all", f"{sum(sizes.values()) / 1e6:,.1f} MB"]]


@contextmanager
def prepare_publication(
    folder: str | Path, repo: str, exports: str | Path | None = None, record: ModelRecord | None = None, **fields: Any
) -> Iterator[Publication]:
    """Collects the files to publish in a temporary folder. The model folder is not changed.

    Args:
        folder: Folder of a saved model, such as the output of a recipe.
        repo: Hub id, `organization/name`.
        exports: Export folder of this model.
        record: Facts of the model. Read from `folder` by default.
        fields: Fields of `CardData`, such as `license`.

    Raises:
        FileNotFoundError: The configuration, the safetensors weights, or a graph of the exports is missing.
        ValueError: `repo`, license or language is not one of the Hub, `exports` is not an export of this model, or a
            file has a local path or an access token.
    """
    source = Path(folder)
    validate_repo_id(repo)
    check_names(fields.get("license"), fields.get("language"))
    if repo.count("/") != 1:
        raise ValueError(f"repo={repo!r}: expected organization/name.")
    found = {path.relative_to(source).as_posix(): path for pattern in FILES for path in source.glob(pattern)}
    if "config.json" not in found:
        raise FileNotFoundError(f"{source} is not a model folder: it has no config.json.")
    if not any(name.endswith(".safetensors") for name in found):
        raise FileNotFoundError(f"{source} has no safetensors weights. Save the model with save_pretrained.")
    record = record or ModelRecord.read(source)
    if (record.folder / RECIPE).is_file():  # a checkpoint's recipe is in the run folder
        found[RECIPE] = record.folder / RECIPE
    if exports is not None:
        found |= _exported(Path(exports), source)
        fields["exports"] = export_rows(Path(exports))
    card = build_card(record, repo, files=found, **fields)
    with tempfile.TemporaryDirectory() as name:
        staging = Path(name) / repo.split("/")[1]
        for path, local in found.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            if local.stat().st_size < 1e6:
                shutil.copyfile(local, staging / path)
            else:  # large files are not modified
                (staging / path).symlink_to(local.resolve())
        _make_public(staging, repo, record.facts)
        add_remote_code(staging)
        texts = eval_results(card)
        if not is_own_card(source):
            texts[CARD] = f"{render_card(card)}\n"
        for path, text in texts.items():
            (staging / path).parent.mkdir(exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8")
        files = {path.relative_to(staging).as_posix(): path for path in staging.rglob("*") if path.is_file()}
        check_contents(files, source)
        yield Publication(repo, files)


def _make_public(folder: Path, repo: str, facts: ModelFacts) -> None:
    """Removes local paths from recipe and manifest; adds input names and maximum length to the tokenizer's config."""
    if (path := folder / RECIPE).is_file():
        recipe = Recipe.read(path)
        recipe._replace(values=remove_local_paths(recipe.values, facts)).write(path)
    if (folder / MANIFEST).is_file():
        write_manifest(folder, replace(read_manifest(folder), model=repo))
    if (path := folder / "tokenizer_config.json").is_file():
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        # Without model_input_names, transformers 5.2 omits token_type_ids.
        tokenizer.setdefault("model_input_names", AutoTokenizer.from_pretrained(folder).model_input_names)
        limit = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
        tokenizer["model_max_length"] = min(tokenizer.get("model_max_length", limit), limit)
        path.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _exported(folder: Path, model: Path) -> dict[str, Path]:
    """Returns the files of an export of this model, by path in the repository."""
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint(load_student(model)[0]):
        raise ValueError(
            f"{folder} has exports of {manifest.model} with other weights or another configuration than {model}. "
            "Export this model to another folder."
        )
    found = {MANIFEST: folder / MANIFEST}
    for graph in manifest.graphs:
        if not (folder / graph).is_file():
            raise FileNotFoundError(f"{folder}: {graph} is missing. Export it again.")
        for path in graph_files(folder, graph):
            found[path.relative_to(folder).as_posix()] = path
    return found


def export_rows(folder: Path) -> list[list[str]]:
    """Returns the table of exported graphs: size, and scores compared with PyTorch."""
    graphs = read_manifest(folder).graphs
    tasks = list(dict.fromkeys(task for graph in graphs.values() for task in graph.scores))
    rows = [["", "size", *(f"{task}, percent (vs. PyTorch)" for task in tasks)]]
    for name, graph in graphs.items():
        cells = []
        for task in tasks:
            scores = graph.scores.get(task)
            cells.append(
                ", ".join(
                    f"{metric} {value:.2f} ({value - scores.pytorch[metric]:+.2f})"
                    for metric, value in scores.graph.items()
                )
                if scores
                else ""
            )
        rows.append([f"`{name}`", f"{graph_size(folder, name) / 1e6:.1f} MB", *cells])
    return rows


def publish(
    publication: Publication,
    *,
    private: bool = False,
    update: bool = False,
    revision: str | None = None,
    message: str = "Publish the model",
    token: str | None = None,
) -> CommitInfo:
    """Uploads all files and publishes them in one commit. An interrupted upload can be repeated and is not redone.

    Args:
        publication: Files from `prepare_publication`.
        private: Whether a new repository is private.
        update: Whether the repository may already contain a model.
        revision: Branch to commit to; created if it does not exist. `main` by default.
        message: Commit message.
        token: Hub token. That of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        The commit.

    Raises:
        FileExistsError: The repository contains a model and `update` is False.
        PermissionError: There is no token, or it is invalid or has no write access.
        ConnectionError: The Hub cannot be reached.
        OSError: The Hub returned another error.
    """
    api = HfApi(token=token)
    repo = publication.repo
    with _translate_errors(repo, api.endpoint):
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        # A repository left by an interrupted upload has no config.json.
        if not update and api.file_exists(repo, "config.json", revision=revision):
            raise FileExistsError(
                f"{repo} already contains a model. Choose another name, or use --update to commit a new version."
            )
        additions = [CommitOperationAdd(name, str(path)) for name, path in sorted(publication.files.items())]
        return api.create_commit(repo, additions, commit_message=message, revision=revision)


@contextmanager
def _translate_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Translates errors of the Hub to built-in exceptions that say what to do."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError("No Hub token found. Run `hf auth login`, or set HF_TOKEN.") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set. Unset it to publish.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PermissionError("The Hub token is invalid. Log in again with `hf auth login`.") from error
        if status == 403:
            raise PermissionError(
                f"The Hub token has no write access to {repo}. Use one with write access to the organization."
            ) from error
        raise OSError(f"The Hub refused {repo}: {error}") from error
    except httpx.RequestError as error:
        raise ConnectionError(
            f"{endpoint} cannot be reached ({error}). Repeat the command to resume the upload."
        ) from error
