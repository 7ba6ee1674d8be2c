"""One call from a teacher and a corpus to a student: the recipe, `mobilebert-hf distill` and the demo."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed

from ..data import PretrainingDataArguments, check_vocabulary
from ..files import atomic_write_text
from ..progress import show_progress
from ..runs.compat import broadcast_object_list
from ..runs.run_folder import open_run_folder
from ..tables import terminal_table
from ..training.phases import Phase, plan_phases
from .arguments import DistillationArguments, StudentArguments
from .facts import describe_student
from .options import check_dimensions, check_objective, check_schedule
from .planning import plan_steps, readable_characters
from .report import RunSummary, ScoredTask, result_rows, write_results
from .shapes import compare_sizes
from .students import Initialized, StudentPlan, plan_student
from .trainer import DistillationTrainer, run_phases
from .trimmed_teacher import trim_teacher

PLAN = "plan.json"

# The dataclasses of the recipe, in the order of `distill`'s parameters.
RECIPE_ARGUMENTS = (StudentArguments, PretrainingDataArguments, DistillationArguments)


def distill(
    student: StudentArguments, data: PretrainingDataArguments, training: DistillationArguments
) -> DistillationTrainer:
    """Makes a student of a teacher and saves it with the tokenizer and a model card to `training.output_dir`.

    Resumes from the last complete checkpoint there, if there is one. Writes the evaluation to `eval_results.json`. The
    students of all teachers but IB-BERT are ready for use, and are compared with their teacher in `results.json`.

    Returns:
        The trainer, after training and evaluation.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        ValueError: The teacher cannot be used, or teacher, corpus and arguments do not match; raised before training.
    """
    began = time.monotonic()
    set_seed(training.seed)
    given, data = (student, data, training), copy.copy(data)
    console = Console(stderr=True, quiet=training.process_index > 0)
    check_schedule(training)
    loaded, trimming = trim_teacher(student, data, training)
    if trimming is not None:
        console.print(terminal_table(trimming.rows(), "teacher"))
    plan = plan_student(loaded, data)
    plan.teacher.config.name_or_path = student.teacher  # also if a trimmed copy was loaded
    tokenizer = plan.tokenizer
    check_objective(plan.output, student, data, training)
    if plan.sentence is not None:
        check_dimensions(training, plan.sentence.dimensions(plan.config.hidden_size))
    check_vocabulary(tokenizer, plan.config, masks=plan.learns_masked_lm)
    for note in plan.notes:
        console.print(note)
    if training.transfer_layers == "auto":
        training.transfer_layers = "last" if plan.is_pruned and training.strategy == "auxiliary" else "all"
    task = ScoredTask.load(student.task, student.task_data) if student.task and student.task_data else None
    phases = _prepare_phases(plan, data, training, console)
    with open_run_folder(training, given) as folder:
        initialized = _initialize(plan, training, phases[0], tokenizer, console)
        if training.minutes is not None:
            scored_tokens = task.count_tokens(tokenizer) if task else 0
            left = training.minutes * 60 - (time.monotonic() - began)
            timed = partial(_make_trainer, plan, initialized, tokenizer, phases[0])
            _plan(folder / PLAN, training, lambda: plan_steps(timed(), left, scored_tokens))

        def make_trainer(phase: Phase) -> DistillationTrainer:
            trainer = _make_trainer(plan, initialized, tokenizer, phase)
            show_progress(trainer, f"distilling {Path(student.teacher).name}", trainer.stage_names)
            return trainer

        trainer = run_phases(make_trainer, phases)
        if plan.is_fitted and training.process_index == 0:
            if plan.sentence is not None:
                plan.sentence.save(folder)
            minutes = (time.monotonic() - began) / 60
            summary = RunSummary(student.teacher, minutes, initialized.report, plan.sentence, trimming)
            _report(folder, trainer, summary, task)
        trainer.finish()
    return trainer


def _report(folder: Path, trainer: DistillationTrainer, summary: RunSummary, task: ScoredTask | None) -> None:
    """Compares student and teacher in `results.json`, in the facts of the run and in a printed table."""
    results = write_results(folder, trainer, summary, task)
    table = result_rows(results)
    facts = describe_student(summary.teacher_name, results, table)
    trainer.facts = replace(facts, datasets=trainer.facts.datasets)
    Console().print(terminal_table(table, f"{folder}"))


def _make_trainer(
    plan: StudentPlan, initialized: Initialized, tokenizer: PreTrainedTokenizerBase, phase: Phase
) -> DistillationTrainer:
    """The trainer of a phase, with a student as it was initialized."""
    assert isinstance(phase.training, DistillationArguments)
    return DistillationTrainer(
        copy.deepcopy(initialized.model),
        plan.teacher,
        phase.training,
        phase.training.build_objectives(plan.output, plan.sentence),
        **_limit_evaluation(phase.inputs(tokenizer), phase.training.max_eval_samples),
    )


def _prepare_phases(
    plan: StudentPlan, data: PretrainingDataArguments, training: DistillationArguments, console: Console
) -> list[Phase]:
    """The phases of training with their data, masked only for masked LM; `data` is changed to what is prepared."""
    prompts: tuple[str, ...] = ()
    if plan.is_fitted:
        if data.streaming:
            raise ValueError("streaming=True: a student is fitted and planned on prepared examples; leave it out.")
        console.print(terminal_table(compare_sizes(plan.config, plan.teacher.model, data.max_seq_length), "encoders"))
        if data.examples == "auto":
            data.examples = "sentences" if plan.output == "pooled" else "windows"
        if plan.sentence is not None and any(plan.sentence.training_prompts):
            prompts = plan.sentence.training_prompts
            if data.examples != "sentences":
                raise ValueError(
                    f"examples={data.examples!r}: the teacher's prompts stand before single sentences: choose "
                    "sentences."
                )
            console.print(f"prompts of the training texts, a share each: {', '.join(map(repr, prompts))}")
        if data.max_characters is None:
            data.max_characters = readable_characters(training, plan.config, plan.teacher.model)
    if not plan.learns_masked_lm:
        data.mlm_probability = 0.0
    if training.minutes is not None and (data.streaming or data.long_seq_length is not None):
        raise ValueError(
            "minutes plans runs of prepared examples of one length: leave it out, or streaming and long_seq_length."
        )
    strategy = training.build_strategy(plan.config.num_hidden_layers)
    return plan_phases(data, training, strategy.steps, plan.tokenizer, plan.config, prompts)


def _initialize(
    plan: StudentPlan,
    training: DistillationArguments,
    phase: Phase,
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
) -> Initialized:
    """The student before training, made by one process; prints how much of the teacher a fit has kept."""
    found = None
    if training.process_index == 0:
        inputs = phase.inputs(tokenizer)
        found = plan.initialize(training.seed, inputs["train_dataset"], inputs["data_collator"])
    [initialized] = broadcast_object_list([found])
    if training.bf16 and training.device.type == "cpu":
        # The backward pass of the fused kernel is several times slower there in bfloat16.
        initialized.model.set_attn_implementation("eager")
    if initialized.report:
        shown = (f"{name} {_show(value)}" for name, value in initialized.report.items())
        console.print(f"initialization: {'; '.join(shown)}")
    return initialized


def _limit_evaluation(inputs: dict[str, Any], examples: int | None) -> dict[str, Any]:
    held_out = inputs["eval_dataset"]
    if examples is None or not isinstance(held_out, Dataset):
        return inputs
    return {**inputs, "eval_dataset": held_out.select(range(min(examples, len(held_out))))}


def _plan(path: Path, training: DistillationArguments, plan: Callable[[], dict[str, int]]) -> None:
    """Sets the steps to those that fit the minutes, or to the plan of the interrupted run that is resumed."""
    # One process reads the file, and its times are used: each process has its own clock.
    [steps] = broadcast_object_list([json.loads(path.read_text()) if path.is_file() else None])
    if steps is None:
        [steps] = broadcast_object_list([plan()])
        if training.process_index == 0:
            atomic_write_text(path, json.dumps(steps))
    training.transfer_steps, training.distillation_steps = steps["transfer_steps"], steps["distillation_steps"]


def _show(value: Any) -> str:
    return " ".join(f"{number:.3f}" for number in (value if isinstance(value, list) else [value]))
