"""Pre-training on masked-LM and next-sentence prediction, of a teacher or of a student without one.

What `transformers.Trainer` does not have: batches grouped by length, losses that are means over the whole global
batch, LAMB with a rate for each place in the network, each loss term in the logs, and an evaluation in the field's
terms (masked-LM loss and accuracy, next-sentence accuracy).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..data import ExampleStream, LengthGroupedBatches, PretrainingCollator, example_lengths
from ..data.masking import IGNORED
from ..models.heads import PreTrainingOutput
from ..runs.run_folder import find_checkpoint
from ..training.durable import DurableTrainer, hold_signals
from .compilation import compile_layers, take_over_compilation
from .facts import describe_pretrained
from .meter import Meter
from .optimizer import lamb, parameter_groups

# For every example of a batch: the sum of a quantity over the example's positions, and how many positions count.
Columns = dict[str, tuple[Tensor, Tensor]]

ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class PreTrainingArguments(TrainingArguments):
    r"""The library's `TrainingArguments`, and the choice of the paper's optimizer.

    Args:
        use_lamb (`bool`, *optional*, defaults to `False`):
            LAMB as in the original code, with the library's `adam_beta1`, `adam_beta2`, `adam_epsilon` and
            `weight_decay`. It is made for large batches (the paper: 2048 and more); for small ones leave the
            library's `optim`.
    """

    use_lamb: bool = field(default=False, metadata={"help": "LAMB as in the original, in place of `optim`."})


class Counts(NamedTuple):
    """What the sums of a step's loss terms are divided by, scalars.

    Totals over all processes and accumulated batches, divided by the number of processes, because gradients are
    averaged over these. So the same global batch has the same losses and gradients however it is spread.
    """

    tokens: Tensor
    predictions: Tensor
    examples: Tensor

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor], totals: Tensor | int | None) -> "Counts":
        """From the totals [3] that `PreTrainer.get_batch_samples` found; without them, of a batch by itself."""
        return cls(*(totals if isinstance(totals, Tensor) else count(inputs).clamp(min=1)))


class PreTrainer(DurableTrainer):
    """`transformers.Trainer` for `...ForPreTraining` models and batches of `PretrainingCollator`.

    Logs `masked_lm_loss` and `next_sentence_loss` (nats) beside their sum, `tokens_per_second` (real tokens, all
    processes) and `hours_left`. Evaluation reports the two losses, their sum `loss`, and `masked_lm_accuracy` and
    `next_sentence_accuracy` (shares of 1).

    Training batches are grouped by length; an `ExampleStream` comes in its own order. With `torch_compile=True` the
    layers are compiled, not the whole network (see `compilation.py`).
    """

    args: PreTrainingArguments
    data_collator: PretrainingCollator
    # The evaluation's columns whose sum is its loss.
    loss_columns: Sequence[str] = ("masked_lm_loss", "next_sentence_loss")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers=True would repeat the first epoch's masks in every epoch: set it to "
                "False."
            )
        self.compilation = take_over_compilation(self.accelerator)
        if self.compilation is not None:
            model: Any = self.model
            compile_layers(model.base_model.encoder.layer, self.compilation)
        self.facts = describe_pretrained(self.accelerator.unwrap_model(self.model).config.model_type)
        self.loss_is_scaled_for_ga = True  # by `Counts`
        self.compute_metrics = self._average_columns
        self.meter = Meter()
        self._column_names: list[str] = []
        self._batches: LengthGroupedBatches | None = None
        self._stream: ExampleStream | None = None
        self._resumed_checkpoint: Path | None = None
        # A stream goes on from the place that a checkpoint notes; the library would read it again from its beginning.
        self.args.ignore_data_skip |= isinstance(self.train_dataset, ExampleStream)
        self.add_callback(_EpochCallback(self))

    # ---- batches

    def get_train_dataloader(self) -> DataLoader:
        """Batches of `LengthGroupedBatches`, handed out to the processes by Accelerate."""
        if isinstance(self.train_dataset, ExampleStream):
            self._stream = self._open_stream(self.train_dataset)
            # Not prepared by Accelerate, which would split it once more and read a batch ahead.
            return DataLoader(self._stream, self._train_batch_size, collate_fn=self.data_collator)
        assert self.train_dataset is not None
        args = self.args
        self._batches = LengthGroupedBatches(
            example_lengths(self.train_dataset),
            self._train_batch_size,
            multiple=args.gradient_accumulation_steps * args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def _open_stream(self, examples: ExampleStream) -> ExampleStream:
        """This process' part of a stream, at the place where the resumed checkpoint left it."""
        args = self.args
        stream = examples.split(args.process_index, args.world_size, args.dataloader_num_workers)
        if self._resumed_checkpoint is not None:
            place = self._resumed_checkpoint / self._stream_file()
            if not place.is_file():
                raise ValueError(
                    f"{self._resumed_checkpoint} has no {place.name}: a stream goes on only with as many processes "
                    "as before."
                )
            stream.load_state_dict(json.loads(place.read_text()))
        return stream

    def save_data_state(self, checkpoint: Path) -> None:
        """The stream's place, for each process."""
        if self._stream is not None:
            (checkpoint / self._stream_file()).write_text(json.dumps(self._stream.state_dict()))

    def _stream_file(self) -> str:
        return f"stream_{self.args.process_index}_of_{self.args.world_size}.json"

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `DurableTrainer.train`."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args)
        self._resumed_checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def start_epoch(self) -> None:
        """Gives order and masks the epoch that the global step belongs to."""
        if self._batches is not None:
            epoch = self.state.global_step // self._batches.steps
            self._batches.epoch = self.data_collator.epoch = epoch

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The batches that one step accumulates, and what to divide their losses by: `Counts`, as a tensor [3]."""
        with hold_signals():  # the first call starts the workers that load data
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        totals = torch.stack([count(batch) for batch in batches]).sum(0).to(device)
        totals = self.accelerator.reduce(totals, reduction="sum")
        self.meter.begin_step(self.state.global_step, totals[0])
        return batches, totals.clamp(min=1) / self.args.world_size

    # ---- optimizer and rates

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the library's, with a parameter group for each place in the network (see `parameter_groups`)."""
        if self.optimizer is None:
            model = model or self.model
            assert model is not None
            groups = parameter_groups(model, self.args.weight_decay, trust_ratio=self.args.use_lamb)
            if self.args.use_lamb:
                betas = (self.args.adam_beta1, self.args.adam_beta2)
                self.optimizer = lamb(groups, self.args.learning_rate, betas, self.args.adam_epsilon)
            else:
                optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
                self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    # ---- training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Masked-LM loss plus next-sentence loss; logits are computed at the masked positions alone."""
        counts = Counts.of(inputs, num_items_in_batch)
        predicted = inputs["labels"] != IGNORED
        outputs = model(**encoder_inputs(inputs), prediction_mask=predicted)
        token_losses = cross_entropies(outputs.prediction_logits, inputs["labels"][predicted])
        sentence_losses = cross_entropies(outputs.seq_relationship_logits, inputs["next_sentence_label"])
        terms = {
            "masked_lm_loss": token_losses.sum() / counts.predictions,
            "next_sentence_loss": sentence_losses.sum() / counts.examples,
        }
        self.meter.record(self.state.global_step, terms)
        loss = terms["masked_lm_loss"] + terms["next_sentence_loss"]
        return (loss, outputs) if return_outputs else loss

    def loss_terms(self) -> Mapping[str, Tensor]:
        """The terms of the current step."""
        return self.meter.at(self.state.global_step)

    def work(self, steps: int) -> float:
        """What the first `steps` steps cost together, in any unit; for the time left."""
        return steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the library's; lines of training also carry the meter's values."""
        if "loss" in logs:
            mean = partial(self.accelerator.reduce, reduction="mean")
            logs = {**logs, **self.meter.read(self.state.global_step, self.work, self.state.max_steps, mean)}
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.meter.paused():
            super()._save_checkpoint(*args, **kwargs)

    # ---- evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As the library's; the same tokens are predicted whatever the epoch, and training's randomness stays."""
        epoch, self.data_collator.epoch = getattr(self.data_collator, "epoch", 0), 0
        try:
            with self.meter.paused(), torch.random.fork_rng(devices=[]):  # a data loader draws a seed
                return super().evaluation_loop(*args, **kwargs)
        finally:
            self.data_collator.epoch = epoch

    def evaluation_columns(self, model: nn.Module, inputs: dict[str, Tensor]) -> Columns:
        """What evaluation averages, of one batch; subclasses add to it."""
        predicted = inputs["labels"] != IGNORED
        outputs = model(**encoder_inputs(inputs), prediction_mask=predicted)
        return pretraining_columns(outputs, inputs["labels"], inputs["next_sentence_label"])

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the columns in place of logits: a row an example, so that processes can be gathered."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            columns = self.evaluation_columns(model, inputs)
        self._column_names = list(columns)
        rows = torch.stack([torch.stack((sums.float(), counts.float()), -1) for sums, counts in columns.values()], 1)
        means = dict(zip(columns, _means(rows), strict=True))
        return torch.stack([means[name] for name in self.loss_columns]).sum(), rows, inputs["next_sentence_label"]

    def _average_columns(self, prediction: EvalPrediction) -> dict[str, float]:
        means = _means(torch.as_tensor(prediction.predictions))
        metrics = dict(zip(self._column_names, means.tolist(), strict=True))
        return {"loss": sum(metrics[name] for name in self.loss_columns), **metrics}


class _EpochCallback(TrainerCallback):
    """Begins an epoch; the library tells only samplers that it knows, and not all of those on resuming."""

    def __init__(self, trainer: PreTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.start_epoch()


def count(inputs: Mapping[str, Tensor]) -> Tensor:
    """Real tokens, masked positions and examples of a batch, int64 [3]."""
    return torch.stack(
        [
            inputs["attention_mask"].sum(),
            (inputs["labels"] != IGNORED).sum(),
            torch.tensor(len(inputs["labels"]), device=inputs["labels"].device),
        ]
    )


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [n, classes] of any dtype and labels [n] -> losses in nats, float32 [n]; 0 where the label is -100."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def encoder_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a batch that the encoder reads."""
    return {name: inputs[name] for name in ENCODER_INPUTS}


def per_place_scheduler(optimizer: torch.optim.Optimizer, rates: Callable[[int], Mapping[str, float]]) -> LambdaLR:
    """A scheduler that multiplies each parameter group's rate by `rates(step)[group["name"]]`.

    Args:
        optimizer: With groups of `parameter_groups`.
        rates: From the number of steps taken to a factor for each place; a pure function.
    """

    def factor_of(place: str) -> Callable[[int], float]:
        return lambda step: rates(step)[place]

    return LambdaLR(optimizer, [factor_of(group["name"]) for group in optimizer.param_groups])


def pretraining_columns(outputs: PreTrainingOutput, labels: Tensor, next_sentence_label: Tensor) -> Columns:
    """Losses and accuracies of the two heads, for each example.

    Args:
        outputs: With `prediction_logits` [n, vocab_size] at the n positions where `labels` is not -100.
        labels: [batch, seq], int64.
        next_sentence_label: [batch], int64.
    """
    assert outputs.prediction_logits is not None
    assert outputs.seq_relationship_logits is not None
    sentence_logits = outputs.seq_relationship_logits.float()
    sentence_hits = sentence_logits.argmax(-1) == next_sentence_label
    one = torch.ones_like(next_sentence_label)
    return {
        **masked_lm_columns(outputs.prediction_logits, labels),
        "next_sentence_loss": (F.cross_entropy(sentence_logits, next_sentence_label, reduction="none"), one),
        "next_sentence_accuracy": (sentence_hits.float(), one),
    }


def masked_lm_columns(logits: Tensor, labels: Tensor) -> Columns:
    """Masked-LM loss and accuracy for each example.

    Args:
        logits: [n, vocab_size] at the n positions where `labels` is not -100.
        labels: [batch, seq], int64.
    """
    predicted = labels != IGNORED
    targets = labels[predicted]
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return {
        "masked_lm_loss": _per_example(losses, predicted),
        "masked_lm_accuracy": _per_example((logits.argmax(-1) == targets).float(), predicted),
    }


def _per_example(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """From values [n] at the n True positions of [batch, seq] to sums and counts [batch]."""
    sums = torch.zeros(positions.shape, device=values.device).masked_scatter_(positions, values).sum(1)
    return sums, positions.sum(1)


def _means(rows: Tensor) -> Tensor:
    """[examples, columns, (sum, count)] -> [columns]."""
    totals = rows.double().sum(0)
    return totals[:, 0] / totals[:, 1]
