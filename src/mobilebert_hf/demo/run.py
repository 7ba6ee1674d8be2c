"""The demo: pre-trains a teacher on raw text, distills a student, fine-tunes a classifier and uses it in a pipeline.

The models are tiny and train for minutes on two CPU cores. The demo shows how they compare, not the quality of
MobileBERT.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging

from ..data import PretrainingDataArguments, load_tokenizer, train_wordpiece
from ..distillation import (
    PAPER,
    DistillationArguments,
    DistillationTrainer,
    ModelArguments,
    StudentArguments,
    distill,
    pretrain,
)
from ..tables import terminal_table
from ..training import PreTrainingArguments
from .classification import fine_tune, latencies, load_task
from .corpus import TEXTBOOKS
from .report import Result, plot_losses, table_rows

TEACHER = {
    "hidden_size": 128,
    "embedding_size": 96,
    "num_hidden_layers": 3,
    "intra_bottleneck_size": 160,
    "intermediate_size": 320,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.06,
}
STUDENT = {
    "intra_bottleneck_size": 32,
    "intermediate_size": 64,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.06,
}
# Fields that the student and the teacher share. Distillation copies them from the teacher.
SHARED = {name: TEACHER[name] for name in ("hidden_size", "embedding_size", "num_hidden_layers")}


@dataclass(frozen=True)
class DemoSettings:
    """How long the demo trains. The defaults take minutes on two CPU cores.

    Args:
        vocab_size: Size of the WordPiece vocabulary.
        teacher_steps: Steps of the teacher's pre-training.
        transfer_steps: Steps of progressive transfer, all layers together.
        distillation_steps: Steps of pre-training distillation after the transfer. The student without transfer trains
            for `transfer_steps + distillation_steps`.
        task_size: Number of paragraphs for fine-tuning.
    """

    vocab_size: int = 2048
    teacher_steps: int = 1200
    transfer_steps: int = 300
    distillation_steps: int = 300
    task_size: int = 3000


class Demo:
    """One run of the demo.

    Args:
        output_dir: Folder for the models, `results.json`, `results.txt` and `losses.png`. Existing files are
            overwritten.
        settings: How long to train.
    """

    def __init__(self, output_dir: Path, settings: DemoSettings) -> None:
        self.output_dir = output_dir
        self.settings = settings
        self.console = Console()
        self.tokenizer = output_dir / "tokenizer"
        self.data = PretrainingDataArguments(
            corpus=[str(TEXTBOOKS)],
            max_seq_length=64,
            # Twice BERT's: more predictions per step, because the demo trains for few steps.
            mlm_probability=0.3,
            cache_dir=str(output_dir / "cache"),
        )

    def train_vocabulary(self) -> None:
        """Trains a WordPiece vocabulary on the textbooks."""
        self.console.rule("1. Vocabulary")
        train_wordpiece(self.data.corpus, self.settings.vocab_size, self.tokenizer)
        self.console.print(f"{self.settings.vocab_size} tokens, trained on the textbooks")

    def pretrain_teacher(self) -> DistillationTrainer:
        """Pre-trains a small IB-BERT with masked LM and next-sentence prediction."""
        self.console.rule("2. Teacher: a small IB-BERT, pre-trained")
        arguments = self._arguments("teacher", max_steps=self.settings.teacher_steps, warmup_steps=0.1)
        model = ModelArguments("ib-bert-large", json.dumps(TEACHER), str(self.tokenizer))
        return pretrain(model, self.data, PreTrainingArguments(**arguments))

    def distill_student(self) -> DistillationTrainer:
        """Distills a small MobileBERT from the teacher layer by layer."""
        self.console.rule("3. Student: a small MobileBERT, distilled layer by layer")
        arguments = self._arguments(
            "student",
            transfer_steps=self.settings.transfer_steps,
            distillation_steps=self.settings.distillation_steps,
            distillation_warmup_ratio=0.1,
        )
        student = StudentArguments(str(self.output_dir / "teacher"), config_overrides=json.dumps(STUDENT))
        return distill(student, self.data, DistillationArguments(**{**PAPER, **arguments}))

    def pretrain_student_alone(self) -> DistillationTrainer:
        """Pre-trains the same student without a teacher for the same number of steps."""
        self.console.rule("4. The same student without a teacher, same number of steps")
        steps = self.settings.transfer_steps + self.settings.distillation_steps
        arguments = self._arguments("student-alone", max_steps=steps, warmup_steps=0.1)
        shape = {**SHARED, "max_position_embeddings": TEACHER["max_position_embeddings"], **STUDENT}
        model = ModelArguments("mobilebert", json.dumps(shape), str(self.tokenizer))
        return pretrain(model, self.data, PreTrainingArguments(**arguments))

    def compare(self, trainers: dict[str, DistillationTrainer]) -> list[Result]:
        """Fine-tunes each model on the task and measures accuracy, size and latency."""
        self.console.rule("5. Fine-tuning: which textbook is a paragraph from?")
        tokenizer = load_tokenizer(self.tokenizer)
        task = load_task(tokenizer, train_size=self.settings.task_size, test_size=600)
        accuracy = {
            name: fine_tune(self.output_dir / name, task, tokenizer, self._classifier(name)) for name in trainers
        }
        models = {
            name: AutoModelForSequenceClassification.from_pretrained(self._classifier(name)) for name in trainers
        }
        milliseconds = latencies(models)
        return [
            Result(
                name=name,
                steps=trainer.state.global_step,
                parameters=models[name].num_parameters(),
                bytes_on_disk=(self._classifier(name) / "model.safetensors").stat().st_size,
                masked_lm_accuracy=self._evaluation(name)["eval_masked_lm_accuracy"],
                task_accuracy=accuracy[name],
                latency_ms=milliseconds[name],
            )
            for name, trainer in trainers.items()
        ]

    def use_student(self) -> None:
        """Loads the student from its folder with Auto classes and pipelines."""
        self.console.rule("6. The student in pipelines")
        classify = pipeline("text-classification", model=str(self._classifier("student")))
        text = "The orbit of a planet is an ellipse with the Sun at one focus."
        [answer] = classify(text)
        self.console.print(f"“{text}” is from the book on {answer['label']} ({answer['score']:.0%} sure)")
        folder = self.output_dir / "student"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = f"The price of a good rises when {tokenizer.mask_token} exceeds supply."
        guesses = pipeline("fill-mask", model=str(folder), tokenizer=tokenizer)(text)
        best = ", ".join(f"{guess['token_str']} ({guess['score']:.0%})" for guess in guesses)
        self.console.print(f"“{text}”: {best}", markup=False)

    def report(
        self, results: list[Result], trainers: dict[str, DistillationTrainer], boundaries: tuple[int, ...]
    ) -> None:
        """Writes the results and the plot, and prints the table."""
        histories = {name: trainer.state.log_history for name, trainer in trainers.items()}
        plot_losses(histories, boundaries, self.output_dir / "losses.png")
        rows = [asdict(result) for result in results]
        (self.output_dir / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        table = terminal_table(table_rows(results), "Held-out text of ten textbooks")
        with (self.output_dir / "results.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=120).print(table)
        self.console.print(table)
        self.console.print(f"Models, results.json, results.txt and losses.png are in {self.output_dir}")

    def _arguments(self, name: str, **specific: Any) -> dict[str, Any]:
        """Returns the arguments shared by all three trainings, with those of one added."""
        return {
            "output_dir": str(self.output_dir / name),
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 64,
            "learning_rate": 2e-3,
            "adam_beta2": 0.98,
            "weight_decay": 0.01,
            "logging_steps": 10,
            "save_strategy": "no",
            "dataloader_pin_memory": False,
            "disable_tqdm": False,
            "seed": 0,
            **specific,
        }

    def _classifier(self, name: str) -> Path:
        return self.output_dir / f"{name}-textbooks"

    def _evaluation(self, name: str) -> dict[str, float]:
        return json.loads((self.output_dir / name / "eval_results.json").read_text(encoding="utf-8"))


def run_demo(output_dir: Path, settings: DemoSettings | None = None) -> list[Result]:
    """Runs the demo; see `Demo`.

    Returns:
        Results of the teacher, the distilled student, and the student without a teacher.
    """
    demo = Demo(output_dir, settings or DemoSettings())
    with _only_training_bars():
        demo.train_vocabulary()
        teacher = demo.pretrain_teacher()
        student = demo.distill_student()
        trainers = {"teacher": teacher, "student": student, "student-alone": demo.pretrain_student_alone()}
        results = demo.compare(trainers)
        demo.use_student()
    assert student.strategy is not None
    demo.report(results, trainers, student.strategy.boundaries)
    return results


@contextmanager
def _only_training_bars() -> Iterator[None]:
    """Hides the libraries' messages and progress bars of loading, saving and preprocessing."""
    verbosity, loading_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    data_bars = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if loading_bars:
            logging.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
