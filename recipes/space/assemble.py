"""Puts together a web page that answers questions in the browser: page, transformers.js and an exported student.

    mobilebert-hf export runs/squad exported --format onnx --quantize int8
    npm install --ignore-scripts @huggingface/transformers
    python recipes/space/assemble.py exported space
    python -m http.server --directory space

The folder is a static Space as it is: `hf upload ORGANIZATION/NAME space --repo-type space`.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from mobilebert_hf.deployment.formats import FORMATS
from mobilebert_hf.files import atomic_write
from mobilebert_hf.runs.exports import read_manifest

HERE = Path(__file__).parent
PAGE = ("index.html", "style.css", "app.js", "answers.js", "README.md")
MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json")
LIBRARY = Path("@huggingface", "transformers", "dist", "transformers.min.js")
# What the browser's ONNX Runtime is made of: one for most browsers, one for Safari.
RUNTIME = Path("onnxruntime-web", "dist")
BUILDS = ("ort-wasm-simd-threaded.asyncify", "ort-wasm-simd-threaded")


def main(
    exported: Annotated[Path, typer.Argument(help="What `mobilebert-hf export --quantize int8` wrote.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    modules: Annotated[Path, typer.Option(help="Where npm has put transformers.js.")] = Path("node_modules"),
) -> None:
    """Writes the page's folder."""
    graph = FORMATS["onnx"].FILES["int8"]
    if read_manifest(exported).task != "question-answering" or not (exported / graph).is_file():
        sys.exit(f"{exported} has no {graph} of a student that answers questions.")
    kind = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]
    if kind != "WordPiece":
        sys.exit(f"{exported} has a {kind} tokenizer: the page finds the places of answers for WordPiece only.")
    if not (modules / LIBRARY).is_file():
        sys.exit(f"{modules} has no {LIBRARY}: npm install --ignore-scripts @huggingface/transformers")
    if output.exists():
        sys.exit(f"{output} is there already: name a new folder.")
    with atomic_write(output) as aside:
        model, vendor = aside / "models" / "student", aside / "vendor"
        (model / graph).parent.mkdir(parents=True)
        vendor.mkdir()
        for name in PAGE:
            shutil.copy(HERE / name, aside)
        for name in MODEL:
            shutil.copy(exported / name, model)
        shutil.copy(exported / graph, model / graph)
        shutil.copy(modules / LIBRARY, vendor)
        for build in BUILDS:
            for suffix in (".mjs", ".wasm"):
                shutil.copy(modules / RUNTIME / f"{build}{suffix}", vendor)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.0f} MB; to look at it: python -m http.server --directory {output}")


if __name__ == "__main__":
    typer.run(main)
