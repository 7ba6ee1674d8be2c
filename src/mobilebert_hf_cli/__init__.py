"""The command `mobilebert-hf`: parses, and calls one function.

It is not in `mobilebert_hf`, for importing that loads transformers and PyTorch: `--help` need not wait for them. Each
command imports what it calls.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .recipes import distill, pretrain

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def main() -> None:
    """MobileBERT and its teachers: pre-train, distill, use."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, table and picture.")] = Path("runs/demo"),
) -> None:
    """Teacher, distilled student and its use, in miniature, on an embedded corpus; minutes on two CPU cores."""
    from mobilebert_hf.demo.run import run_demo
    from mobilebert_hf.training.interruption import TrainingInterrupted

    try:
        run_demo(output)
    except TrainingInterrupted as interruption:
        typer.echo(interruption, err=True)


# Options that these commands do not name are those of their recipes.
for recipe in (pretrain, distill):
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(recipe)


@app.command()
def schedule(
    config: Annotated[Path, typer.Argument(help="YAML file of recipes/distill.py.", exists=True)],
    layers: Annotated[int, typer.Option(help="Layers of the networks.", min=1)] = 24,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the learning rate of every layer.")] = None,
) -> None:
    """Shows the stages of a distillation recipe as a table, and as a picture, without training."""
    from rich.console import Console

    from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS
    from mobilebert_hf.distillation.schedule_view import describe
    from mobilebert_hf.distillation.schedule_view import plot as plot_schedule
    from mobilebert_hf.recipe import parse_recipe

    *_, arguments = parse_recipe(RECIPE_ARGUMENTS, ["--config", str(config)])
    strategy = arguments.build_strategy(layers)
    Console().print(describe(strategy))
    if plot is not None:
        plot_schedule(strategy, plot, base_learning_rate=arguments.learning_rate)
        Console().print(f"picture in {plot}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a recipe.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report; the run's by default.")] = None,
) -> None:
    """Draws a run, finished or not: losses by stage, learning rates, every layer's loss, as picture and web page."""
    from rich.console import Console

    with Console(stderr=True).status(f"drawing {folder}"):
        from mobilebert_hf.reporting import write_report

        paths = write_report(folder, output)
    for path in paths:
        typer.echo(path)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Hub id or folder of a student.")],
    output: Annotated[Path, typer.Argument(help="Folder for graph, tokenizer and configuration.")],
    format: Annotated[str, typer.Option(help="onnx, openvino, executorch or tflite.")] = "onnx",
    quantize: Annotated[str | None, typer.Option(help="int8 or int8-static; float32 by default.")] = None,
    calibration: Annotated[list[str] | None, typer.Option(help="For int8-static: files or folders of text.")] = None,
    folded: Annotated[bool, typer.Option(help="Fold the norms into the products first.")] = True,
) -> None:
    """Exports a student to a runtime's format, checked on that runtime against the PyTorch model."""
    run_export(model, output, format, quantize, calibration or [], folded)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="What `mobilebert-hf export` wrote.")],
    task: Annotated[str, typer.Option(help="squad, or a GLUE task, as sst2.")],
    data: Annotated[str, typer.Option(help="SQuAD's file, GLUE's folder, or a Hub data set.")],
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a text; 128, or 384 for SQuAD, by default.")
    ] = None,
    threads: Annotated[int, typer.Option(help="For each runtime.")] = 2,
) -> None:
    """Scores every graph of an export on a task, beside the PyTorch model: what 8 bits cost."""
    from rich.console import Console

    from mobilebert_hf.deployment.scoring import score_export
    from mobilebert_hf.tables import terminal_table

    scores = score_export(folder, task, data, max_length, threads)
    [reference, *_] = scores.values()
    rows = [
        [name, *(f"{found[metric]:.2f} ({found[metric] - value:+.2f})" for metric, value in reference.items())]
        for name, found in scores.items()
    ]
    Console().print(terminal_table([["graph", *reference], *rows], f"{task}, in percent (against PyTorch)"))


@app.command()
def benchmark(
    output: Annotated[Path, typer.Argument(help="Folder for results and graphs.")],
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of a student; random weights by default.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="pytorch, onnx, openvino or tflite; all by default.")
    ] = None,
    threads: Annotated[int, typer.Option(help="For each runtime.")] = 2,
    shape: Annotated[list[str] | None, typer.Option(help="Rows and tokens, as 1x128; four by default.")] = None,
    seconds: Annotated[float, typer.Option(help="For each network, precision and shape.")] = 5.0,
    questions: Annotated[
        str | None, typer.Option(help="SQuAD file or data set: times texts of mixed lengths, too.")
    ] = None,
) -> None:
    """Times a student on this machine beside stock MobileBERT, DistilBERT and BERT_BASE, on every runtime."""
    from mobilebert_hf.deployment.benchmark import run_benchmark
    from mobilebert_hf.deployment.benchmark.run import RUNTIMES, SHAPES, parse_shape

    shapes = [parse_shape(text) for text in shape] if shape else SHAPES
    run_benchmark(output, model, runtime or list(RUNTIMES), threads, shapes, seconds, questions)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Hub id or folder; or prefix or folder of an original checkpoint.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[str, typer.Option(help="transformers or tensorflow.")] = "transformers",
) -> None:
    """Converts between the original's TensorFlow 1 checkpoints and transformers' format, and compares the outputs."""
    from rich.console import Console

    with Console(stderr=True).status(f"converting {source}"):
        from mobilebert_hf.conversion import convert as convert_checkpoint

        errors = convert_checkpoint(source, output, to)
    typer.echo(f"{output}: {', '.join(f'{name} within {error:.1e}' for name, error in errors.items())} of the source")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A model, such as a recipe's output.")],
    repo: Annotated[str, typer.Option(help="ORGANIZATION/NAME on the Hub.")],
    exports: Annotated[Path | None, typer.Option(help="What `export` wrote of it.")] = None,
    license: Annotated[str | None, typer.Option(help="The Hub's name of it, as apache-2.0; for the card.")] = None,
    language: Annotated[str | None, typer.Option(help="Of the text, as en; for the card.")] = None,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    update: Annotated[bool, typer.Option(help="Commit a new version of a model that is there.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Publish the model",
    dry_run: Annotated[bool, typer.Option(help="Show the files, and upload nothing.")] = False,
) -> None:
    """Publishes a model on the Hub: weights, code, exports, card and scores, in one commit."""
    from rich.console import Console

    from mobilebert_hf.hub import prepare_publication
    from mobilebert_hf.hub import publish as publish_prepared
    from mobilebert_hf.tables import terminal_table

    with prepare_publication(folder, repo, exports, license=license, language=language) as publication:
        Console().print(terminal_table(publication.rows, "nothing is uploaded" if dry_run else "uploading"))
        if not dry_run:
            commit = publish_prepared(publication, private=private, update=update, revision=revision, message=message)
            typer.echo(commit.commit_url)


@app.command()
def vocabulary(
    corpus: Annotated[list[str], typer.Argument(help="Files, folders, globs, or Hub data sets.")],
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    size: Annotated[int, typer.Option(help="Entries of the vocabulary.")] = 30_522,
    cased: Annotated[bool, typer.Option(help="Keep upper case.")] = False,
) -> None:
    """Trains a WordPiece vocabulary on a corpus and saves it as a tokenizer."""
    from mobilebert_hf.data import train_wordpiece

    train_wordpiece(corpus, size, output, lowercase=not cased)


def run_export(
    model: str, output: Path, format: str, quantize: str | None, calibration: list[str], folded: bool
) -> None:
    """What `mobilebert-hf export` and `optimum-cli export mobilebert` do."""
    from rich.console import Console

    with Console(stderr=True).status(f"exporting {model}"):
        from mobilebert_hf.deployment import FORMATS
        from mobilebert_hf.deployment import export as export_student
        from mobilebert_hf.runs.exports import graph_size

        errors = export_student(model, output, format, quantize, calibration=calibration, folded=folded)
    listed = ", ".join(f"{name} within {error:.1e} of the model's" for name, error in errors.items())
    file = FORMATS[format].FILES[quantize]
    typer.echo(f"{output / file}: {graph_size(output, file) / 1e6:.1f} MB, {listed}")


def run() -> None:
    """The entry point: mistakes in what was given are told in a line, without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"mobilebert-hf: {error}")
