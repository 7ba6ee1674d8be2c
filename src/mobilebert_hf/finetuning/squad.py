"""Fine-tuning on SQuAD v1.1 and v2.0, with answers and scores in the official formats."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..data.batching import example_lengths
from ..data.squad import is_version_2, load_squad
from ..data.squad_windows import build_features
from ..files import atomic_write_text
from ..progress import show_progress
from ..runs.run_folder import find_checkpoint, open_run_folder
from ..tasks.heads import QUESTION_ANSWERING
from ..tasks.kinds import KINDS
from ..tasks.squad_answers import NOTHING_FOUND, Answers, find_answers
from ..tasks.squad_scores import squad_scores, squad_v2_scores
from ..training import DurableTrainer
from .arguments import FaultyRowArguments, TaskArguments
from .encoder import EncoderArguments, add_adapter, count_parameters, load_encoder
from .facts import describe_squad_model
from .trainer import planned_steps, prepare_for_fine_tuning

logger = logging.getLogger(__name__)

HUB_DATASET = "rajpurkar/squad"


@dataclass
class SquadArguments(FaultyRowArguments, TaskArguments):
    """SQuAD: data, windows and answers."""

    train: str = field(
        default=HUB_DATASET,
        metadata={"help": "Official JSON file, compressed or not, or Hub dataset (rajpurkar/squad_v2 for v2.0)."},
    )
    validation: str = field(
        default=HUB_DATASET,
        metadata={"help": "The same for validation. Questions without an answer make it SQuAD v2.0."},
    )
    repair_offsets: bool = field(
        default=False,
        metadata={"help": "Correct a wrong answer_start where the context has the answer exactly once."},
    )
    max_seq_length: int = field(
        default=KINDS["qa"].max_length,
        metadata={"help": "Maximum number of tokens in a window of question and context."},
    )
    doc_stride: int = field(
        default=128, metadata={"help": "Number of tokens that neighbouring windows of a context share."}
    )
    max_question_length: int = field(
        default=64, metadata={"help": "Maximum number of tokens in a question; the rest is truncated."}
    )
    n_best: int = field(default=20, metadata={"help": "Number of answers to keep for each question."})
    max_answer_length: int = field(default=30, metadata={"help": "Maximum number of tokens in an answer."})
    null_threshold: float | None = field(
        default=None,
        metadata={
            "help": "SQuAD v2.0: null odds above which a question has no answer. By default the threshold with the "
            "best F1 on the validation questions, which makes that F1 optimistic."
        },
    )
    feature_processes: int = field(default=2, metadata={"help": "Number of processes that tokenize the questions."})


RECIPE_ARGUMENTS = (EncoderArguments, SquadArguments, TrainingArguments)


def finetune_squad(encoder: EncoderArguments, squad: SquadArguments, training: TrainingArguments) -> dict[str, Any]:
    """Fine-tunes on the training questions, then answers the validation questions and scores the answers.

    Resumes from the last complete checkpoint. Writes the model, `predictions.json`, `nbest_predictions.json`, for v2.0
    `null_odds.json`, and `eval_results.json` to `training.output_dir`.

    Returns:
        The scores, in percent.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM was received; a checkpoint was written.
        FileNotFoundError: A file is missing.
        ValueError: Data or arguments are invalid. It is raised before training starts.
    """
    longest = getattr(AutoConfig.from_pretrained(encoder.model), "max_position_embeddings", squad.max_seq_length)
    if squad.max_seq_length > longest:
        raise ValueError(f"max_seq_length={squad.max_seq_length}, but {encoder.model} takes {longest} tokens at most.")
    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder.model)
    with training.main_process_first(desc="building features"):
        train = make_features(load_training_questions(squad, training.output_dir), tokenizer, squad, training=True)
        questions = load_squad(
            squad.validation,
            "validation",
            repair_offsets=squad.repair_offsets,
            skipped=squad.skipped_rows(training.output_dir),
        )
        windows = make_features(questions, tokenizer, squad, training=False)
    model: nn.Module = load_encoder(encoder, AutoModelForQuestionAnswering)
    model = add_adapter(model, encoder, QUESTION_ANSWERING.adapter, planned_steps(training, len(train)))
    total, learning = count_parameters(model)
    folder = Path(training.output_dir or ".")
    with open_run_folder(training, (encoder, squad, training)):
        trainer = QuestionAnsweringTrainer(
            model=model,
            args=training,
            train_dataset=train,
            eval_dataset=windows,
            questions=questions,
            squad=squad,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        prepare_for_fine_tuning(trainer)
        sources = encoder.model, squad.train, squad.validation
        trainer.facts = describe_squad_model(*sources, measured={})
        show_progress(trainer, "SQuAD")
        trainer.train(resume_from_checkpoint=find_checkpoint(training))
        scores = trainer.evaluate()
        trainer.facts = describe_squad_model(*sources, scores)
        if training.process_index == 0:
            trainer.answers.save(folder, trainer.null_threshold)
            results = {**scores, "parameters": total, "trained_parameters": learning, "train_windows": len(train)}
            atomic_write_text(folder / "eval_results.json", json.dumps(results, indent=1) + "\n")
        trainer.save_final_model()
        trainer.save_state()
        trainer.finish()
    return scores


def load_training_questions(squad: SquadArguments, output_dir: str | None) -> Dataset:
    """The training questions: all, or a random sample of `max_train_samples`."""
    skipped = squad.skipped_rows(output_dir)
    questions = load_squad(squad.train, "train", repair_offsets=squad.repair_offsets, skipped=skipped)
    if squad.max_train_samples is None:
        return questions
    return questions.shuffle(seed=0).select(range(min(squad.max_train_samples, len(questions))))


def make_features(
    questions: Dataset, tokenizer: PreTrainedTokenizerBase, squad: SquadArguments, *, training: bool
) -> Dataset:
    """The windows of the questions. For evaluation they are sorted by length, longest first.

    Batches then need hardly any padding, and the first batch needs the most memory.
    """
    windows = build_features(
        questions,
        tokenizer,
        training=training,
        max_length=squad.max_seq_length,
        doc_stride=squad.doc_stride,
        max_question_length=squad.max_question_length,
        processes=squad.feature_processes,
    )
    return windows if training else windows.select(np.argsort(-example_lengths(windows), kind="stable"))


class QuestionAnsweringTrainer(DurableTrainer):
    """A trainer that evaluates by answering questions.

    Args:
        questions: The questions whose windows are the `eval_dataset`.
        squad: How to find answers.
        kwargs: The arguments of `DurableTrainer`.
    """

    def __init__(self, questions: Dataset, squad: SquadArguments, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.questions, self.squad = questions, squad
        self.answers = Answers({}, {}, {})
        self.null_threshold = 0.0

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Answers all questions, and logs and returns the official scores: `eval_f1` and so on, in percent."""
        windows = self.eval_dataset
        assert isinstance(windows, Dataset)
        outputs = self.predict(windows.remove_columns(["example", "offsets", "context_start"]))
        start_logits, end_logits = cast(tuple[np.ndarray, np.ndarray], outputs.predictions)
        scores, self.answers, self.null_threshold = score_logits(
            self.questions, windows, start_logits, end_logits, self.squad
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def score_logits(
    questions: Dataset, windows: Dataset, start_logits: np.ndarray, end_logits: np.ndarray, squad: SquadArguments
) -> tuple[dict[str, float], Answers, float]:
    """Finds the answers and scores them.

    Args:
        questions: The questions of the windows.
        windows: The windows of `make_features`.
        start_logits: [windows, seq], where seq is at least the length of the longest window.
        end_logits: The same shape.
        squad: How to find answers.

    Returns:
        The official scores in percent, the answers, and for v2.0 the null odds above which a question has no answer.
    """
    version_2 = is_version_2(questions)
    answers = find_answers(
        questions,
        windows,
        start_logits,
        end_logits,
        version_2=version_2,
        n_best=squad.n_best,
        max_answer_length=squad.max_answer_length,
    )
    truths = {row["id"]: row["answers"]["text"] for row in questions.select_columns(["id", "answers"])}
    if not version_2:
        return squad_scores(answers.best, truths), answers, 0.0
    searched = squad_v2_scores(answers.best, truths, answers.null_odds, threshold=np.inf)
    threshold = _best_threshold(searched) if squad.null_threshold is None else squad.null_threshold
    best = {name: value for name, value in searched.items() if name.startswith("best_")}
    scores = squad_v2_scores(answers.predictions(threshold), truths)
    return {**scores, **best, "null_threshold": threshold}, answers, threshold


def _best_threshold(searched: dict[str, float]) -> float:
    never_answering = 100 * searched.get("NoAns_total", 0) / searched["total"]
    # The official search returns 0 where never answering is best.
    return -NOTHING_FOUND if searched["best_f1"] <= never_answering else searched["best_f1_thresh"]
