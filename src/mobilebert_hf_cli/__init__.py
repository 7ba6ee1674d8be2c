"""The command `mobilebert-hf`. Each verb parses its options and calls one function.

The package is separate from `mobilebert_hf`, whose import loads transformers and PyTorch. Each verb imports what it
calls. So `--help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .recipes import distill, finetune, pretrain
from .several import SeveralValues

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def main() -> None:
    """Pre-train, distill, fine-tune, export and publish MobileBERT models."""


# These commands take the options of their recipes, too.
for recipe in (pretrain, distill, finetune):
    app.command(
        cls=SeveralValues,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(recipe)


@app.command(cls=SeveralValues)
def export(
    model: Annotated[str, typer.Argument(help="Hub id or folder of a student.")],
    output: Annotated[Path, typer.Argument(help="Output folder for graph, tokenizer and configuration.")],
    format: Annotated[str, typer.Option(help="Format: onnx, openvino, executorch or tflite.")] = "onnx",
    quantize: Annotated[
        str | None, typer.Option(help="Quantization: int8 (dynamic) or int8-static. By default float32.")
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="Calibration text for int8-static: files or folders."),
    ] = None,
    folded: Annotated[bool, typer.Option(help="Fold the norms into the adjacent linear layers.")] = True,
) -> None:
    """Export a student to ONNX, OpenVINO, ExecuTorch or TFLite, and check the outputs against PyTorch."""
    run_export(model, output, format, quantize, calibration or [], folded)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Output folder of `mobilebert-hf export`.")],
    data: Annotated[
        str, typer.Option(help="File of labelled examples, SQuAD file, folder of GLUE files, or Hub dataset.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="Kind of task such as classify, squad, or a task of GLUE such as sst2. By default that of the model."
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Maximum number of tokens in a sequence. By default 128, for SQuAD 384.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Number of threads of each runtime.", min=1)] = 2,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text or tokens; a number without names.")
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text.")] = None,
    label_column: Annotated[
        list[str] | None, typer.Option(help="Column of the labels. Can be given several times for multilabel.")
    ] = None,
    class_names: Annotated[
        list[str] | None, typer.Option(help="Names of the labels, or a file of them, for labels that are indices.")
    ] = None,
) -> None:
    """Score the graphs of an export on a task, next to the PyTorch model."""
    from rich.console import Console

    from mobilebert_hf.deployment.scoring import score_export
    from mobilebert_hf.tables import terminal_table
    from mobilebert_hf.tasks.labelled_data import ColumnNames

    label = tuple(label_column) if label_column else None
    columns = ColumnNames(text_column, pair_column, label, tuple(class_names or ()))
    scores = score_export(folder, task, data, max_length, threads, columns)
    [reference, *_] = scores.values()
    rows = [
        [name, *(f"{found[metric]:.2f} ({found[metric] - value:+.2f})" for metric, value in reference.items())]
        for name, found in scores.items()
    ]
    Console().print(terminal_table([["graph", *reference], *rows], f"{task or data}, in percent (against PyTorch)"))


@app.command()
def benchmark(
    output: Annotated[Path, typer.Argument(help="Output folder for results and graphs.")],
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of a student. By default random weights.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="Runtime: pytorch, onnx, openvino or tflite. By default all. Can be given several times."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Number of threads of each runtime.", min=1)] = 2,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch size and sequence length, such as 1x128. By default four shapes. Can be given several times."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time for each network, precision and shape.")] = 5.0,
    questions: Annotated[
        str | None, typer.Option(help="SQuAD file or Hub dataset, to time sequences of mixed lengths, too.")
    ] = None,
) -> None:
    """Measure the latency of a student, MobileBERT, DistilBERT and BERT_BASE on this machine."""
    from mobilebert_hf.deployment.benchmark import run_benchmark
    from mobilebert_hf.deployment.benchmark.run import RUNTIMES, SHAPES, parse_shape

    shapes = [parse_shape(text) for text in shape] if shape else SHAPES
    run_benchmark(output, model, runtime or list(RUNTIMES), threads, shapes, seconds, questions)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run, finished or not.")],
    output: Annotated[
        Path | None, typer.Option(help="Output folder for the report. By default the folder of the run.")
    ] = None,
) -> None:
    """Plot the losses and learning rates of a run as a picture and a web page."""
    from rich.console import Console

    with Console(stderr=True).status(f"drawing {folder}"):
        from mobilebert_hf.reporting import write_report

        paths = write_report(folder, output)
    for path in paths:
        typer.echo(path)


@app.command()
def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_OR_FOLDER", help="Folder of a model, such as the output folder of a run.")
    ],
    repo: Annotated[str, typer.Option(help="Hub id of the repository: ORGANIZATION/NAME.")],
    exports: Annotated[
        Path | None, typer.Option(help="Output folder of `mobilebert-hf export` for this model.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="License for the model card, such as apache-2.0.")] = None,
    language: Annotated[str | None, typer.Option(help="Language for the model card, such as en.")] = None,
    private: Annotated[bool, typer.Option(help="Create the repository as private.")] = False,
    update: Annotated[bool, typer.Option(help="Commit a new version to a repository that has a model.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to. By default main.")] = None,
    message: Annotated[str, typer.Option(help="Commit message.")] = "Publish the model",
    dry_run: Annotated[bool, typer.Option(help="List the files without uploading them.")] = False,
) -> None:
    """Publish a model on the Hub with code, exports, card and scores, in one commit."""
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
def convert(
    source: Annotated[
        str, typer.Argument(help="Hub id or folder of a model, or prefix or folder of a TensorFlow checkpoint.")
    ],
    output: Annotated[Path, typer.Argument(help="New folder for the converted model.")],
    to: Annotated[str, typer.Option(help="Target format: transformers or tensorflow.")] = "transformers",
) -> None:
    """Convert between the original TensorFlow checkpoints and transformers, and compare the outputs."""
    from rich.console import Console

    with Console(stderr=True).status(f"converting {source}"):
        from mobilebert_hf.conversion import convert as convert_checkpoint

        errors = convert_checkpoint(source, output, to)
    typer.echo(f"{output}: {', '.join(f'{name} within {error:.1e}' for name, error in errors.items())} of the source")


@app.command()
def schedule(
    config: Annotated[Path, typer.Argument(help="YAML file of recipes/distill.py.", exists=True)],
    layers: Annotated[int, typer.Option(help="Number of layers of teacher and student.", min=1)] = 24,
    plot: Annotated[Path | None, typer.Option(help="PNG file to plot the learning rate of each layer to.")] = None,
) -> None:
    """Show the stages of a distillation recipe without training."""
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
def vocabulary(
    corpus: Annotated[list[str], typer.Argument(help="Text files, folders, globs or Hub datasets.")],
    output: Annotated[Path, typer.Option(help="Output folder for the tokenizer.")],
    size: Annotated[int, typer.Option(help="Number of tokens in the vocabulary.")] = 30_522,
    cased: Annotated[bool, typer.Option(help="Keep upper and lower case apart.")] = False,
    strip_accents: Annotated[bool, typer.Option(help="Strip accents and other marks, as BERT does.")] = False,
    coverage: Annotated[
        float, typer.Option(help="Share of the corpus' characters that the vocabulary represents.")
    ] = 0.9999,
) -> None:
    """Train a WordPiece vocabulary on a corpus and save it as a tokenizer."""
    from mobilebert_hf.data import train_wordpiece

    train_wordpiece(
        corpus, size, output, lowercase=not cased, strip_accents=strip_accents, character_coverage=coverage
    )


@app.command()
def trim(
    model: Annotated[
        str, typer.Argument(help="Hub id or folder of a model of transformers or sentence-transformers.")
    ],
    corpus: Annotated[
        list[str], typer.Option(help="Text file, folder, glob or Hub dataset. Can be given several times.")
    ],
    output: Annotated[Path, typer.Option(help="New folder for the trimmed model.")],
    keep: Annotated[
        str, typer.Option(help="Share of the corpus' tokens whose pieces are kept, or a number of pieces.")
    ] = "0.9995",
) -> None:
    """Trim the vocabulary of a model with its tokenizer to the pieces that a corpus needs.

    The tokenizer gives the corpus back as before. A text whose pieces are all kept has the same outputs.
    """
    from rich.console import Console

    from mobilebert_hf.data.trimmed_model import trim_model
    from mobilebert_hf.tables import terminal_table

    with Console(stderr=True).status(f"trimming {model}"):
        trimming = trim_model(model, corpus, keep, output)
    Console().print(terminal_table(trimming.rows(), f"{output}"))
    for name in trimming.left_out:
        typer.echo(f"left out: {name}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Output folder for models, table and plot.")] = Path("runs/demo"),
) -> None:
    """Pre-train a small teacher, distill it and fine-tune the student, in minutes on two CPU cores."""
    from mobilebert_hf.demo.run import run_demo
    from mobilebert_hf.training.interruption import TrainingInterrupted

    try:
        run_demo(output)
    except TrainingInterrupted as interruption:
        typer.echo(interruption, err=True)


def run_export(
    model: str, output: Path, format: str, quantize: str | None, calibration: list[str], folded: bool
) -> None:
    """Runs `mobilebert-hf export` and `optimum-cli export mobilebert`."""
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
    """The entry point. Errors in the input are printed as one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"mobilebert-hf: {error}")
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        sys.exit(f"mobilebert-hf: a file of weights is damaged ({error}): save or download it again.")
