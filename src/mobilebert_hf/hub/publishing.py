"""A model folder as a repository on the Hub: weights, code, exports, card and scores, in one commit."""

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
from ..runs.facts import FACTS, PICTURE, ModelRecord
from ..runs.run_folder import RECIPE, Recipe
from .card import CARD, eval_results, render_card
from .remote_code import add_remote_code
from .run_card import describe, is_own_card, without_places

# What of a folder is the model, and not the run's.
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
    "1_Pooling/config.json",
)


@dataclass(frozen=True)
class Publication:
    """What is to be published.

    Args:
        repo: `organization/name`.
        files: Each file's path in the repository, and where it is now.
    """

    repo: str
    files: Mapping[str, Path]

    @property
    def rows(self) -> list[list[str]]:
        """A table of the files and their sizes, its first row the heading."""
        sizes = {name: path.stat().st_size for name, path in sorted(self.files.items())}
        rows = [[name, f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} B"] for name, size in sizes.items()]
        return [[self.repo, "size"], *rows, ["all", f"{sum(sizes.values()) / 1e6:,.1f} MB"]]


@contextmanager
def prepared(
    folder: str | Path, repo: str, exports: str | Path | None = None, record: ModelRecord | None = None, **fields: Any
) -> Iterator[Publication]:
    """Puts together what is to be published, aside: the folder stays as it is.

    Args:
        folder: Of a saved model, such as a recipe's output.
        repo: `organization/name`.
        exports: The folder that `export` wrote of this model.
        record: What is known of it; by default what the folder tells.
        fields: Of the card's `CardData`, such as `license`.

    Raises:
        FileNotFoundError: The folder has no configuration, or no weights in safetensors, or that of exports lacks a
            graph.
        ValueError: The name is none, the folder of exports holds none, or those of another model.
    """
    source = Path(folder)
    validate_repo_id(repo)
    if repo.count("/") != 1:
        raise ValueError(f"repo={repo!r}: expected organization/name.")
    found = {path.relative_to(source).as_posix(): path for pattern in FILES for path in source.glob(pattern)}
    if "config.json" not in found:
        raise FileNotFoundError(f"{source} holds no model: there is no config.json in it.")
    if not any(name.endswith(".safetensors") for name in found):
        raise FileNotFoundError(f"{source} has no weights in safetensors: save the model with save_pretrained.")
    record = record or ModelRecord.read(source)
    if (record.folder / RECIPE).is_file():  # of a checkpoint, in the run's folder
        found[RECIPE] = record.folder / RECIPE
    if exports is not None:
        found |= _exported(Path(exports), source)
        fields["exports"] = export_rows(Path(exports))
    card = describe(record, repo, files=found, **fields)
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name) / repo.split("/")[1]
        for path, place in found.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            if place.stat().st_size < 1e6:
                shutil.copyfile(place, aside / path)
            else:  # large files are only read
                (aside / path).symlink_to(place.resolve())
        _make_public(aside, repo)
        add_remote_code(aside)
        texts = eval_results(card)
        if not is_own_card(source):
            texts[CARD] = f"{render_card(card)}\n"
        for path, text in texts.items():
            (aside / path).parent.mkdir(exist_ok=True)
            (aside / path).write_text(text, encoding="utf-8")
        files = {path.relative_to(aside).as_posix(): path for path in aside.rglob("*") if path.is_file()}
        yield Publication(repo, files)


def _make_public(folder: Path, repo: str) -> None:
    """Takes local paths out of recipe and manifest; tells inputs and longest text in the tokenizer's file."""
    if (path := folder / RECIPE).is_file():
        recipe = Recipe.read(path)
        recipe._replace(values=without_places(recipe.values)).write(path)
    if (folder / MANIFEST).is_file():
        write_manifest(folder, replace(read_manifest(folder), model=repo))
    if (path := folder / "tokenizer_config.json").is_file():
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        # Without it transformers 5.2 leaves token types out.
        tokenizer.setdefault("model_input_names", AutoTokenizer.from_pretrained(folder).model_input_names)
        longest = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
        tokenizer["model_max_length"] = min(tokenizer.get("model_max_length", longest), longest)
        path.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _exported(folder: Path, model: Path) -> dict[str, Path]:
    """The graphs of an export of this model, by their paths, with what lies beside them."""
    manifest = read_manifest(folder)
    if manifest.fingerprint != fingerprint(load_student(model)[0]):
        raise ValueError(
            f"{folder} holds exports of {manifest.model}, with other weights or another configuration than {model} "
            "has: export this one, into another folder."
        )
    found = {MANIFEST: folder / MANIFEST}
    for graph in manifest.graphs:
        if not (folder / graph).is_file():
            raise FileNotFoundError(f"{folder} has no {graph} any more: export it again.")
        for path in graph_files(folder, graph):
            found[path.relative_to(folder).as_posix()] = path
    return found


def export_rows(folder: Path) -> list[list[str]]:
    """A table of an export's graphs: sizes, and what each lost on the tasks that it was scored on."""
    graphs = read_manifest(folder).graphs
    tasks = list(dict.fromkeys(task for graph in graphs.values() for task in graph.scores))
    rows = [["", "size", *(f"{task}, percent (against PyTorch)" for task in tasks)]]
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
    """Uploads, and commits all files at once: until then nothing is to be seen, and what was uploaded is found again.

    Args:
        publication: Of `prepared`.
        private: Whether a new repository is.
        update: Whether the repository may hold a model already.
        revision: The branch to commit to, made if it is not there; by default `main`.
        message: Of the commit.
        token: By default the one that `hf auth login` or `HF_TOKEN` gives.

    Returns:
        The commit.

    Raises:
        FileExistsError: The repository holds a model, and `update` is not set.
        PermissionError: There is no token, it is not valid, or may not write there.
        ConnectionError: The Hub cannot be reached.
        OSError: The Hub says no for another reason.
    """
    api = HfApi(token=token)
    repo = publication.repo
    with _explained(repo, api.endpoint):
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        # What an interrupted upload has made is empty.
        if not update and api.file_exists(repo, "config.json", revision=revision):
            raise FileExistsError(
                f"{repo} holds a model already: choose another name, or give --update to commit a new version."
            )
        additions = [CommitOperationAdd(name, str(path)) for name, path in sorted(publication.files.items())]
        return api.create_commit(repo, additions, commit_message=message, revision=revision)


@contextmanager
def _explained(repo: str, endpoint: str) -> Iterator[None]:
    """Says what to do where the Hub says no."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set: unset it to publish.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PermissionError("The Hub does not know this token: make one with `hf auth login`.") from error
        if status == 403:
            raise PermissionError(
                f"This token may not write to {repo}: take one with write access, of a member of the organization."
            ) from error
        raise OSError(f"The Hub refused {repo}: {error}") from error
    except httpx.RequestError as error:
        raise ConnectionError(
            f"{endpoint} cannot be reached ({error}): the same command goes on from what was uploaded."
        ) from error
