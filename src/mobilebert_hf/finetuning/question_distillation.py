"""Distillation of question answering: start and end logits of windows, answers and scores as in fine-tuning."""

import json
import time
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer, DataCollatorWithPadding

from ..data.squad import load_squad
from ..distillation.shapes import count_parameters
from ..distillation.teachers import EncoderTeacher
from ..files import atomic_write_text
from ..runs.run_folder import open_run_folder
from ..tables import terminal_table
from ..tasks.heads import QUESTION_ANSWERING
from ..tasks.kinds import KINDS
from .labelled import keep_best_epoch
from .labelled_report import RESULTS, comparison_rows, describe_task_student
from .squad import QuestionAnsweringTrainer, SquadArguments, load_training_questions, make_features
from .task_students import build_student, load_teacher, shape_of
from .task_trainer import TaskDistillationTrainer, train_student
from .trainer import prepare_for_fine_tuning


class QuestionDistillationTrainer(TaskDistillationTrainer, QuestionAnsweringTrainer):
    """Trains a student to answer questions beside its teacher."""


def distill_questions(student: Any, training: Any, start: str | None, plan: Any) -> dict[str, Any]:
    """Makes a student that answers questions; `distill_task` calls it.

    Args:
        student: `TaskStudentArguments`, whose `data` and `validation` are SQuAD files or Hub datasets.
        training: `TaskDistillationArguments`.
        start: Folder or Hub id of a student to start from; None: it is fitted on the questions.
        plan: Sets the number of steps by timing the trainer.

    Returns:
        The content of `results.json`.
    """
    began = time.monotonic()
    if student.validation is None:
        raise ValueError("validation is missing: question answering needs --validation with other questions.")
    squad = question_arguments(student)
    teacher, tokenizer = load_teacher(student, QUESTION_ANSWERING), AutoTokenizer.from_pretrained(student.teacher)
    with training.main_process_first(desc="building features"):
        rows = make_features(load_training_questions(squad, training.output_dir), tokenizer, squad, training=True)
        questions = load_squad(squad.validation, "validation")
        windows = make_features(questions, tokenizer, squad, training=False)
    collator = DataCollatorWithPadding(tokenizer)
    options = {"questions": questions, "squad": squad, "data_collator": collator, "processing_class": tokenizer}
    with open_run_folder(training, (student, training)) as folder:
        asked = QuestionAnsweringTrainer(model=teacher, args=training, eval_dataset=windows, **options)
        expected = asked.evaluate()
        shape = shape_of(student, teacher, tokenizer)
        network, explained = build_student(teacher, shape, start, QUESTION_ANSWERING, collator, rows)
        keep_best_epoch(training)
        training.metric_for_best_model = "f1"
        trainer = QuestionDistillationTrainer(
            model=network,
            teacher=EncoderTeacher(teacher, shape.mapping),
            objectives=student.build_objectives(KINDS["qa"]),
            args=training,
            train_dataset=rows,
            eval_dataset=windows,
            **options,
        )
        prepare_for_fine_tuning(trainer)
        train_student(trainer, student, plan)
        found = trainer.evaluate()
        results: dict[str, Any] = {
            "task": "qa",
            "examples": {"train": len(rows), "validation": len(questions)},
            "scores": {"validation": _fractions(found)},
            "teacher": {
                "scores": {"validation": _fractions(expected)},
                "parameters": count_parameters(teacher.base_model),
            },
            "student": {"parameters": count_parameters(network.base_model)},
            "head_variance": explained,
            "minutes": (time.monotonic() - began) / 60,
        }
        trainer.facts = describe_task_student(results, student.teacher, student.data)
        if training.process_index == 0:
            trainer.answers.save(folder, trainer.null_threshold)
            atomic_write_text(folder / RESULTS, json.dumps(results, indent=1) + "\n")
            Console().print(terminal_table(comparison_rows(results), str(folder)))
        trainer.save_final_model()
        trainer.save_state()
        trainer.finish()
    return results


def question_arguments(student: Any) -> SquadArguments:
    """The windows of a distillation: as in fine-tuning or, where they are shorter, in proportion."""
    length = student.max_seq_length or KINDS["qa"].max_length
    return SquadArguments(
        ["squad"],
        train=student.data,
        validation=student.validation,
        max_seq_length=length,
        doc_stride=length // 3,
        max_question_length=min(64, length // 4),
    )


def _fractions(scores: dict[str, float]) -> dict[str, float]:
    """F1 and exact match of the trainer's scores in percent, as fractions."""
    names = ("eval_f1", "eval_exact_match", "eval_exact")
    return {name.removeprefix("eval_"): scores[name] / 100 for name in names if name in scores}
