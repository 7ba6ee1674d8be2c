"""One call from a teacher and a corpus to a distilled student; what the recipe and the demo run."""

from dataclasses import dataclass, field

from transformers import AutoModelForPreTraining, set_seed

from ..data import PretrainingDataArguments, check_vocabulary, load_tokenizer
from ..pretraining.run import ModelArguments, Phase, plan_phases, run
from ..progress import show_progress
from ..runs.run_folder import open_run_folder
from .initialization import MATCHED_FIELDS, initialize_from_teacher
from .trainer import DistillationArguments, DistillationTrainer


@dataclass
class StudentArguments:
    r"""Which student to make, from which teacher.

    Args:
        teacher (`str`):
            Hub id or folder of the teacher, with its tokenizer, which becomes the student's.
        preset (`str`, *optional*, defaults to `"mobilebert"`):
            One of the paper's students, a key of `PRESETS`.
        config_overrides (`str` or `dict`, *optional*):
            Fields of the student's configuration to change; JSON on the command line, a mapping in YAML. What must be
            equal to the teacher's is taken from the teacher.
    """

    teacher: str = field(metadata={"help": "Hub id or folder of the teacher and its tokenizer."})
    preset: str = field(default="mobilebert", metadata={"help": "mobilebert, mobilebert-tiny or mobilebert-noopt."})
    config_overrides: str | None = field(default=None, metadata={"help": "Fields of the configuration, as JSON."})


# What the recipe's YAML file and command line are made of, in the order `distill` takes them.
RECIPE_ARGUMENTS = (StudentArguments, PretrainingDataArguments, DistillationArguments)


def distill(
    student: StudentArguments, data: PretrainingDataArguments, training: DistillationArguments
) -> DistillationTrainer:
    """Transfers a teacher's knowledge to a new student and saves it with the tokenizer to `training.output_dir`.

    Goes on from the last whole checkpoint there, if there is one. Writes the evaluation to `eval_results.json`.

    Returns:
        The trainer, after training and evaluation.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint was written.
        ValueError: The teacher, the corpus, the student and the arguments do not fit; before training starts.
    """
    set_seed(training.seed)
    tokenizer = load_tokenizer(student.teacher)
    teacher = AutoModelForPreTraining.from_pretrained(student.teacher)
    matched = {name: getattr(teacher.config, name) for name in (*MATCHED_FIELDS, "pad_token_id", "mask_padding")}
    config = ModelArguments(student.preset, student.config_overrides).build_config(**matched)
    check_vocabulary(tokenizer, config)
    strategy = training.build_strategy(config.num_hidden_layers)

    def make_trainer(phase: Phase) -> DistillationTrainer:
        assert isinstance(phase.training, DistillationArguments)
        set_seed(training.seed)
        model = AutoModelForPreTraining.from_config(config)
        initialize_from_teacher(model, teacher)
        trainer = DistillationTrainer(model, teacher, phase.training, **phase.inputs(tokenizer))
        show_progress(trainer, f"distilling {student.preset}", tuple(stage.name for stage in strategy.stages))
        return trainer

    phases = plan_phases(data, training, strategy.steps, tokenizer, config)
    with open_run_folder(training, (student, data, training)):
        trainer = run(make_trainer, phases)
        trainer.finish()
    return trainer
