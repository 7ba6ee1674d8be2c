"""The whole way in miniature: raw text to a teacher, to a distilled student, to a classifier used in a pipeline.

Every number it prints was measured in the run. The networks are tiny and see a minute or two of training on two CPU
cores; what the demo shows is how they compare, not what MobileBERT can do.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, pipeline
from transformers.utils import logging

from ..data import PretrainingDataArguments, load_tokenizer, train_wordpiece
from ..distillation.run import StudentArguments, distill
from ..distillation.trainer import DistillationArguments
from ..pretraining.run import ModelArguments, pretrain
from ..pretraining.trainer import PreTrainer, PreTrainingArguments
from .classification import fine_tune, latencies, load_task
from .corpus import TEXTBOOKS
from .report import Result, build_table, plot_losses

VOCABULARY = 2048
TEACHER = {
    "hidden_size": 128,
    "embedding_size": 64,
    "num_hidden_layers": 3,
    "intra_bottleneck_size": 256,
    "intermediate_size": 512,
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
TEACHER_STEPS = 1000
TRANSFER_STEPS = 450
DISTILLATION_STEPS = 450


def run_demo(output_dir: Path) -> list[Result]:
    """Runs the demo and leaves models, `results.json`, `results.txt` and `losses.png` in a folder.

    Args:
        output_dir: Must not exist, or hold an earlier demo, which is done again from its beginning.

    Returns:
        The rows of the table: teacher, distilled student, student without transfer.
    """
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    console = Console()
    data = PretrainingDataArguments(
        corpus=[str(TEXTBOOKS)], max_seq_length=64, cache_dir=str(output_dir / "cache"), preprocessing_num_workers=1
    )
    folders = {name: output_dir / name for name in ("teacher", "student", "student-without-transfer")}

    console.rule("1. Vocabulary")
    tokenizer_folder = str(output_dir / "tokenizer")
    train_wordpiece(data.corpus, VOCABULARY, tokenizer_folder)
    console.print(f"{VOCABULARY} pieces, trained on the textbooks")

    console.rule("2. Teacher: IB-BERT, pre-trained on masked words and next sentences")
    teacher = pretrain(
        ModelArguments("ib-bert-large", json.dumps(TEACHER), tokenizer_folder),
        data,
        PreTrainingArguments(**_training(folders["teacher"]), max_steps=TEACHER_STEPS, warmup_steps=0.1),
    )

    console.rule("3. Student: MobileBERT, distilled layer by layer")
    student = distill(
        StudentArguments(str(folders["teacher"]), "mobilebert", json.dumps(STUDENT)),
        data,
        DistillationArguments(
            **_training(folders["student"]),
            transfer_steps=TRANSFER_STEPS,
            distillation_steps=DISTILLATION_STEPS,
            distillation_warmup_ratio=0.1,
        ),
    )

    console.rule("4. The same student without transfer, for as many steps")
    shape = {name: TEACHER[name] for name in ("hidden_size", "embedding_size", "num_hidden_layers")}
    alone = pretrain(
        ModelArguments(
            "mobilebert", json.dumps({**shape, "max_position_embeddings": 128, **STUDENT}), tokenizer_folder
        ),
        data,
        PreTrainingArguments(
            **_training(folders["student-without-transfer"]), max_steps=student.args.max_steps, warmup_steps=0.1
        ),
    )

    console.rule("5. Fine-tuning: which textbook is a paragraph from?")
    trainers = dict(zip(folders, (teacher, student, alone), strict=True))
    results = _compare(trainers, folders)

    console.rule("6. The student in a pipeline")
    _use(folders["student"], console)

    plot_losses(
        {name: trainer.state.log_history for name, trainer in trainers.items()},
        student.strategy.boundaries,
        output_dir / "losses.png",
    )
    (output_dir / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    table = build_table(results)
    console.print(table)
    with (output_dir / "results.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=120).print(table)
    console.print(f"Models, results.json, results.txt and losses.png are in {output_dir}")
    return results


def _training(folder: Path) -> dict[str, Any]:
    """What all three trainings have in common."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "learning_rate": 2e-3,
        "adam_beta2": 0.98,
        "weight_decay": 0.01,
        "logging_steps": 10,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def _compare(trainers: dict[str, PreTrainer], folders: dict[str, Path]) -> list[Result]:
    tokenizer = load_tokenizer(folders["teacher"])
    task = load_task(tokenizer, train_size=2000, test_size=600)
    accuracies = {
        name: fine_tune(folder, task, tokenizer, folder.with_name(f"{name}-textbooks"))
        for name, folder in folders.items()
    }
    classifiers: dict[str, PreTrainedModel] = {
        name: AutoModelForSequenceClassification.from_pretrained(folder.with_name(f"{name}-textbooks"))
        for name, folder in folders.items()
    }
    milliseconds = latencies(classifiers)
    return [
        Result(
            name=name,
            steps=trainer.state.global_step,
            parameters=classifiers[name].num_parameters(),
            bytes_on_disk=(folders[name].with_name(f"{name}-textbooks") / "model.safetensors").stat().st_size,
            masked_lm_accuracy=json.loads((folders[name] / "eval_results.json").read_text())[
                "eval_masked_lm_accuracy"
            ],
            task_accuracy=accuracies[name],
            latency_ms=milliseconds[name],
        )
        for name, trainer in trainers.items()
    ]


def _use(student: Path, console: Console) -> None:
    """Uses the published form: folders, Auto classes, pipelines."""
    classify = pipeline("text-classification", model=str(student.with_name("student-textbooks")))
    text = "The orbit of a planet is an ellipse with the Sun at one focus."
    console.print(f"{text!r} is from: {classify(text)[0]}")
    tokenizer = AutoTokenizer.from_pretrained(student)
    fill = pipeline("fill-mask", model=str(student), tokenizer=tokenizer)
    sentence = f"The price of a good rises when {tokenizer.mask_token} exceeds supply."
    guesses = ", ".join(f"{guess['token_str']} {guess['score']:.2f}" for guess in fill(sentence))
    console.print(f"{sentence!r}: {guesses}")
