"""One call from any BERT-like encoder and a corpus to a student; what the recipe and `mobilebert-hf distill` run."""

import json
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import cached_file

from ...data import PretrainingDataArguments, check_vocabulary, load_tokenizer
from ...files import write_aside
from ...models.configuration import MobileBertConfig
from ...pretraining.run import Phase, plan_phases, run
from ...progress import show_progress
from ...recipe import parse_mapping
from ...runs.run_folder import open_run_folder
from ...tables import terminal_table
from ..facts import describe_student
from ..teachers import EncoderTeacher
from .planning import plan_steps
from .report import ScoredTask, result_rows, write_results
from .sentence_encoder import MODULES, write_sentence_encoder
from .shapes import SIZES, compare_sizes, student_shape
from .start import start_student
from .trainer import AnyTeacherArguments, AnyTeacherTrainer, Objective

PLAN = "plan.json"
# Held-out examples that are enough for the table, and do not take minutes.
EVALUATED_EXAMPLES = 2_000


@dataclass
class AnyStudentArguments:
    r"""Which student to make, from which teacher.

    Args:
        teacher (`str`):
            Hub id or folder of a BERT-like encoder with its tokenizer, which becomes the student's.
        size (`str`, *optional*, defaults to `"small"`):
            `"base"`, `"small"` or `"tiny"`: the widths inside the student's blocks, see `SIZES`.
        layers (`str`, *optional*, defaults to `"all"`):
            `"all"` of the teacher's layers one to one, every second (`"half"`), or indices such as `"1,3,5"`.
        config_overrides (`str` or `dict`, *optional*):
            Other fields of the student's configuration; JSON on the command line, a mapping in YAML.
        objective (`str`, *optional*, defaults to `"auto"`):
            Besides the features of all layers: `"pooled"` for a sentence encoder (a teacher with `modules.json`),
            `"masked_lm"` for a teacher with that head, `"features"` for nothing else. `"auto"` looks at the teacher.
        task (`str`, *optional*):
            A task that teacher and student are scored on in the end, without training: `"stsb"`, for sentence
            encoders.
        task_data (`str`, *optional*):
            GLUE's folder or a Hub data set for it.
    """

    teacher: str = field(metadata={"help": "Hub id or folder of a BERT-like encoder and its tokenizer."})
    size: str = field(default="small", metadata={"help": f"One of {', '.join(SIZES)}."})
    layers: str = field(default="all", metadata={"help": "all, half, or indices as 1,3,5."})
    config_overrides: str | None = field(default=None, metadata={"help": "Fields of the configuration, as JSON."})
    objective: str = field(default="auto", metadata={"help": "auto, pooled, masked_lm or features."})
    task: str | None = field(default=None, metadata={"help": "Scored in the end: stsb."})
    task_data: str | None = field(default=None, metadata={"help": "The task's folder or Hub data set."})

    def __post_init__(self) -> None:
        if self.objective not in ("auto", *get_args(Objective)):
            raise ValueError(f"objective={self.objective!r} is not one of auto, {', '.join(get_args(Objective))}.")
        if self.task not in (None, "stsb"):
            raise ValueError(f"task={self.task!r} is not known: expected stsb.")
        if self.task and not self.task_data:
            raise ValueError(f"task={self.task!r} needs task_data: GLUE's folder, or a Hub data set.")


# What the recipe's YAML file and command line are made of, in the order `distil_any` takes them.
RECIPE_ARGUMENTS = (AnyStudentArguments, PretrainingDataArguments, AnyTeacherArguments)


def distil_any(
    student: AnyStudentArguments, data: PretrainingDataArguments, training: AnyTeacherArguments
) -> AnyTeacherTrainer:
    """Makes a student of an encoder and saves it with the tokenizer, a table and a card to `training.output_dir`.

    Goes on from the last whole checkpoint there, if there is one.

    Returns:
        The trainer, after training and evaluation.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was written.
        ValueError: The teacher cannot be adapted, or teacher, corpus and arguments do not fit; before training.
    """
    began = time.monotonic()
    if data.streaming:
        raise ValueError("streaming=True: a student is initialized and planned on prepared examples; leave it out.")
    set_seed(training.seed)
    tokenizer = load_tokenizer(student.teacher)
    tokenizer.padding_side = "right"  # the student's positions count from the left
    objective = choose_objective(student)
    task = ScoredTask.load(student.task, student.task_data) if student.task and student.task_data else None
    teacher = EncoderTeacher(load_teacher(student.teacher, objective)).eval().requires_grad_(False)
    shape = student_shape(
        teacher.model, student.size, student.layers, parse_mapping("config_overrides", student.config_overrides)
    )
    check_vocabulary(tokenizer, shape.config)
    console = Console(stderr=True, quiet=training.process_index > 0)
    console.print(terminal_table(compare_sizes(shape, teacher.model, data.max_seq_length), "encoders"))

    phase = _prepare(data, objective, training, tokenizer, shape.config)
    inputs = phase.inputs(tokenizer)
    held_out = inputs["eval_dataset"]
    inputs["eval_dataset"] = held_out.select(range(min(EVALUATED_EXAMPLES, len(held_out))))
    with open_run_folder(training, (student, data, training)) as folder:
        set_seed(training.seed)
        start = start_student(shape, teacher, objective, inputs["train_dataset"], inputs["data_collator"])
        console.print("start: " + "; ".join(f"{name} {_show(value)}" for name, value in start.report.items()))

        if training.bf16 and training.device.type == "cpu":
            # The fused kernel's backward pass is several times slower there in bfloat16.
            start.student.set_attn_implementation("eager")

        def make_trainer(phase: Phase) -> AnyTeacherTrainer:
            assert isinstance(phase.training, AnyTeacherArguments)
            return AnyTeacherTrainer(start.student, teacher, phase.training, shape.mapping, objective, **inputs)

        if training.minutes is not None:
            scored_tokens = task.count_tokens(tokenizer) if task else 0
            left = training.minutes * 60 - (time.monotonic() - began)
            _plan(folder / PLAN, training, lambda: plan_steps(make_trainer(phase), left, scored_tokens))

        def make_shown_trainer(phase: Phase) -> AnyTeacherTrainer:
            trainer = make_trainer(phase)
            stages = tuple(stage.name for stage in trainer.strategy.stages)
            show_progress(trainer, f"distilling {Path(student.teacher).name}", stages)
            return trainer

        trainer = run(make_shown_trainer, [phase])
        if training.process_index == 0:
            if objective == "pooled":
                write_sentence_encoder(folder, student.teacher, shape.config.hidden_size, data.max_seq_length)
            results = write_results(
                folder, student.teacher, trainer, start.report, task, (time.monotonic() - began) / 60
            )
            table = result_rows(results)
            facts = describe_student(student.teacher, results, table)
            trainer.facts = replace(facts, datasets=trainer.facts.datasets)
            Console().print(terminal_table(table, f"{folder}"))
        trainer.finish()
    return trainer


def _prepare(
    data: PretrainingDataArguments,
    objective: Objective,
    training: AnyTeacherArguments,
    tokenizer: PreTrainedTokenizerBase,
    config: MobileBertConfig,
) -> Phase:
    """Single texts, masked only where masks are predicted."""
    data = copy(data)
    if data.examples == "pairs":  # of use to next-sentence prediction alone
        data.examples = "sentences" if objective == "pooled" else "windows"
    if objective != "masked_lm":
        data.mlm_probability = 0.0
    [phase] = plan_phases(data, training, 0, tokenizer, config)
    return phase


def choose_objective(student: AnyStudentArguments) -> Objective:
    """The objective asked for; `"auto"`: what the teacher's files show."""
    if student.objective != "auto":
        return cast(Objective, student.objective)
    if cached_file(student.teacher, MODULES, _raise_exceptions_for_missing_entries=False):
        return "pooled"
    architectures = AutoConfig.from_pretrained(student.teacher).architectures or []
    has_head = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in architectures)
    return "masked_lm" if has_head else "features"


def load_teacher(name: str, objective: Objective) -> PreTrainedModel:
    """The teacher, from safetensors alone, in float32 however it is saved; with its masked-LM head if that counts."""
    auto = AutoModelForMaskedLM if objective == "masked_lm" else AutoModel
    return auto.from_pretrained(name, dtype=torch.float32, use_safetensors=True)


def _plan(path: Path, training: AnyTeacherArguments, plan: Callable[[], dict[str, int]]) -> None:
    """Sets the steps to those that fit the minutes, or to those that an interrupted run was planned to."""
    # One process looks, and one says what is done: each has its own clock.
    [steps] = broadcast_object_list([json.loads(path.read_text()) if path.is_file() else None])
    if steps is None:
        [steps] = broadcast_object_list([plan()])
        if training.process_index == 0:
            write_aside(path, json.dumps(steps))
    training.transfer_steps, training.distillation_steps = steps["transfer_steps"], steps["distillation_steps"]


def _show(value: Any) -> str:
    return " ".join(f"{number:.3f}" for number in (value if isinstance(value, list) else [value]))
