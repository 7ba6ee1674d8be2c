"""Distillation with the head: a student that answers as a fine-tuned teacher does.

The architecture of the teacher says the task. Two stages: general transfer of the features of all layers on a corpus,
as for any teacher (left out with a student to start from), and transfer on the texts of the task: features, and the
logits of the head, mixed with labels where there are any.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, TrainingArguments, set_seed

from ..data import PretrainingDataArguments
from ..distillation.arguments import BaseStudentArguments, DistillationArguments, StudentArguments
from ..distillation.loading import load_config
from ..distillation.objectives import FeatureMaps, Objective
from ..distillation.run import distill
from ..distillation.shapes import count_parameters
from ..distillation.task_objectives import LogitsType, TaskLogits
from ..distillation.teachers import EncoderTeacher
from ..files import atomic_write_text
from ..runs.compat import broadcast_object_list
from ..runs.run_folder import open_run_folder
from ..tables import terminal_table
from ..tasks.kinds import KINDS, Kind, kind_of_model
from ..tasks.labelled_data import LabelledData, load_labelled
from ..training import DurableTrainer
from .arguments import ExampleArguments
from .labelled import LabelledTrainingArguments, finish, keep_best_epoch, make_method, make_trainer, show_data
from .labelled_report import comparison_rows, describe_task_student
from .methods import Encoded, Method
from .question_distillation import distill_questions
from .task_students import build_student, load_teacher, shape_of, unlabelled
from .task_trainer import TaskDistillationTrainer, train_student

PLAN, GENERAL = "plan.json", "general"
# Weights of the terms of general transfer: normalized distance, means, variances.
FEATURE_WEIGHTS = 6.0, 1.0, 1.0
# Share of the minutes for the general transfer, and of the rest for the steps of the second stage besides validation.
GENERAL_SHARE, STEPS_SHARE = 0.6, 0.85


@dataclass
class TaskStudentArguments(BaseStudentArguments, ExampleArguments):
    """The fine-tuned teacher, the texts of its task, and the student to make of it."""

    teacher: str = field(
        kw_only=True,
        metadata={"help": "Hub id or folder of a fine-tuned model. Its head says the task."},
    )
    data: str = field(
        kw_only=True,
        metadata={
            "help": "Texts of the task, labelled or not: .csv, .tsv, .json, .jsonl, .parquet, CoNLL columns, a folder "
            "saved by datasets, or a Hub dataset; for question answering a SQuAD file, beside --validation."
        },
    )
    corpus: list[str] | None = field(
        default=None,
        metadata={"help": "Text for general transfer of the layers' features before: files, folders, Hub datasets."},
    )
    student: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of a student to start from, of the same teacher's shape, without --corpus."
        },
    )
    alpha: float = field(default=0.3, metadata={"help": "Share of the labels in the loss; the rest is the teacher's."})
    temperature: float = field(default=2.0, metadata={"help": "Temperature of both models' logits."})
    feature_weight: float = field(
        default=0.3, metadata={"help": "Factor of the loss of the layers' features, relative to general transfer."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.student is not None and self.corpus is not None:
            raise ValueError("student and corpus are both given: general transfer makes a new student. Leave one out.")

    def build_objectives(self, kind: Kind) -> list[Objective]:
        """Features of the layers, with the weights of general transfer times `feature_weight`, and logits."""
        feature_map, mean, variance = (self.feature_weight * weight for weight in FEATURE_WEIGHTS)
        features = FeatureMaps(feature_map, mean, variance, embeddings=True)
        types: dict[str, LogitsType] = {
            "class": "class",
            "classes": "classes",
            "score": "score",
            "tags": "class",
            "span": "span",
        }
        logits = "classes" if kind.name == "rerank" else types[kind.label]
        return [features, TaskLogits(logits, self.alpha, self.temperature)]


@dataclass
class TaskDistillationArguments(LabelledTrainingArguments):
    """Training on the texts of the task. The epoch with the best validation score is kept."""

    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of AdamW."})
    minutes: float | None = field(
        default=None,
        metadata={
            "help": "Plan the run to this time: the first steps are timed. max_steps and num_train_epochs, where one "
            "is given, take its place."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # The command gives minutes by default.
        if self.max_steps > 0 or self.num_train_epochs != LabelledTrainingArguments.num_train_epochs:
            self.minutes = None


RECIPE_ARGUMENTS = (TaskStudentArguments, TaskDistillationArguments)


def distill_task(student: TaskStudentArguments, training: TaskDistillationArguments) -> dict[str, Any]:
    """Makes a student with the head, the labels and the `problem_type` of a fine-tuned teacher.

    Resumes from the last complete checkpoint. Writes model, tokenizer, card, and what `finetune_labelled` writes, with
    the teacher's scores beside the student's.

    Returns:
        The content of `results.json`.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        ValueError: Teacher, data and arguments do not match; raised before training.
    """
    began = time.monotonic()
    kind, folder = find_teacher_kind(student), Path(training.output_dir or ".")

    def plan(trainer: Any) -> None:
        assert training.minutes is not None
        plan_steps(folder / PLAN, trainer, training, training.minutes * 60 - (time.monotonic() - began))

    if kind is KINDS["qa"]:
        set_seed(training.seed)
        return distill_questions(student, training, start_of(student, training, kind.max_length, folder), plan)
    teacher = load_teacher(student, kind.head)
    config: Any = teacher.config
    names = () if kind.label == "score" else tuple(config.id2label[index] for index in range(config.num_labels))
    with training.main_process_first(desc="reading examples"):
        files = student.validation, student.test, student.columns, student.holdout
        data = load_labelled(kind, student.data, *files, names)
    if training.process_index == 0:
        show_data(data)
    method = make_method(student.max_seq_length, data, student.teacher)
    encoded = {split: method.encode(examples) for split, examples in data.splits.items()}
    start = start_of(student, training, method.max_length, folder)
    set_seed(training.seed)
    with open_run_folder(training, (student, training)):
        asked = predict(teacher, method, encoded, training)
        data, encoded = answer_by_teacher(data, encoded, method, asked)
        teacher_scores = {split: method.score(encoded[split], logits).metrics for split, logits in asked.items()}
        shape = shape_of(student, teacher, method.tokenizer)
        network, explained = build_student(teacher, shape, start, kind.head, method.collator, encoded["train"].rows)
        if training.process_index == 0:
            print_explained(explained)
        keep_best_epoch(training)
        trainer = make_trainer(
            TaskDistillationTrainer,
            method,
            encoded,
            training,
            model=network,
            teacher=EncoderTeacher(teacher, shape.mapping),
            objectives=student.build_objectives(kind),
        )
        train_student(trainer, student, plan)
        more = {
            "teacher": {"scores": teacher_scores, "parameters": count_parameters(teacher.base_model)},
            "student": {"parameters": count_parameters(network.base_model)},
            "head_variance": explained,
            "minutes": (time.monotonic() - began) / 60,
        }
        results = finish(trainer, method, data, encoded, folder, more)
        if training.process_index == 0:
            trainer.facts = describe_task_student(results, student.teacher, student.data)
            Console().print(terminal_table(comparison_rows(results), str(folder)))
        trainer.save_state()
        trainer.finish()
    return results


def find_teacher_kind(student: TaskStudentArguments) -> Kind:
    """The kind of task of the teacher.

    Raises:
        ValueError: The teacher has no head that is distilled here.
    """
    config = load_config(student.teacher, student.consent)
    kind = kind_of_model(config.to_dict())
    if kind is KINDS["embed"]:
        raise ValueError(
            f"{student.teacher} ({', '.join(config.architectures or ['no architecture'])}) has no head for a task: "
            "leave --data out to distill the encoder on --corpus."
        )
    return kind


def start_of(
    student: TaskStudentArguments, training: TaskDistillationArguments, length: int, folder: Path
) -> str | None:
    """The student to start from: the given one, that of general transfer on the corpus, or None."""
    if student.corpus is None:
        return student.student
    general = folder / GENERAL
    shared = ("per_device_train_batch_size", "seed", "use_cpu", "bf16", "report_to", "disable_tqdm", "save_steps")
    minutes = None if training.minutes is None else training.minutes * GENERAL_SHARE
    values = {name: getattr(training, name) for name in shared}
    if not (general / "eval_results.json").is_file():
        distill(
            StudentArguments(
                student.teacher,
                size=student.size,
                layers=student.layers,
                config_overrides=student.config_overrides,
                trust_remote_code=student.trust_remote_code,
                allow_pickle=student.allow_pickle,
                objective="features",
            ),
            PretrainingDataArguments(list(student.corpus), max_seq_length=length),
            DistillationArguments(str(general), minutes=minutes, **values),
        )
    return str(general)


def predict(
    teacher: PreTrainedModel, method: Method, encoded: Mapping[str, Encoded], training: TrainingArguments
) -> dict[str, Any]:
    """The teacher's logits of the examples that are scored."""
    trainer = DurableTrainer(
        model=teacher, args=training, data_collator=method.collator, processing_class=method.tokenizer
    )
    return {
        split: trainer.predict(unlabelled(part.rows)).predictions
        for split, part in encoded.items()
        if split != "train"
    }


def answer_by_teacher(
    data: LabelledData, encoded: dict[str, Encoded], method: Method, asked: Mapping[str, Any]
) -> tuple[LabelledData, dict[str, Encoded]]:
    """Gives examples without labels, other than those of training, the teacher's answers, and says so."""
    data, encoded = data._replace(splits=dict(data.splits), notes=list(data.notes)), dict(encoded)
    for split, logits in asked.items():
        examples = data.splits[split]
        if "label" in examples.columns:
            continue
        label = method.answers(encoded[split], logits)
        data.splits[split] = replace(examples, columns={**examples.columns, "label": label})
        encoded[split] = method.encode(data.splits[split])
        data.notes.append(
            f"The {split} examples have no labels: scores say how often the teacher's answers are given."
        )
    return data, encoded


def print_explained(share: float) -> None:
    """Prints how well the initialization approximates the teacher's logits."""
    Console(stderr=True).print(
        f"initialization: the head explains {share:.1%} of the variance of the teacher's logits"
    )


def plan_steps(path: Path, trainer: Any, training: TrainingArguments, seconds: float) -> None:
    """Sets the number of steps to what fits the time, or to the plan of the interrupted run that is resumed."""
    [steps] = broadcast_object_list([json.loads(path.read_text())["steps"] if path.is_file() else None])
    if steps is None:
        [steps] = broadcast_object_list([max(1, int(STEPS_SHARE * seconds / trainer.time_step()))])
        if training.process_index == 0:
            atomic_write_text(path, json.dumps({"steps": steps}) + "\n")
    training.max_steps = steps
