import pytest

from mobilebert_hf import machine
from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationTrainer, report

from ..helpers import fixed_masks, pad, paper_arguments, pretraining_model
from .helpers import LAYERS


@pytest.fixture(scope="package", autouse=True)
def latencies_take_no_time():
    """Each run measures both networks; three calls will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "TIMED_SECONDS", 0.0)
        patch.setattr(machine, "WARM_UP", 0.01)
        yield


@pytest.fixture(scope="module")
def rows(tiny_examples, tiny_tokenizer):
    return fixed_masks(tiny_examples["validation"], tiny_tokenizer)


@pytest.fixture(scope="module")
def batch(rows):
    batch = pad(rows[:8])
    assert not batch["attention_mask"].all(), "without padding this shows little"
    return batch


@pytest.fixture
def make_trainer(tmp_path, tiny_examples, tiny_tokenizer):
    """A trainer of a new student (or `model`) with dropout, for 8 steps a layer and 8 of distillation."""

    def make(model=None, teacher=None, callbacks=None, eval_dataset=None, examples=200, **arguments):
        defaults = {"transfer_steps": 8 * LAYERS, "distillation_steps": 8, "teacher_dtype": "float32"}
        return DistillationTrainer(
            model or pretraining_model("MobileBert", tiny_tokenizer, hidden_dropout_prob=0.1),
            teacher or pretraining_model("IBBert", tiny_tokenizer),
            paper_arguments(tmp_path, **{**defaults, **arguments}),
            train_dataset=tiny_examples["train"].select(range(examples)),
            eval_dataset=eval_dataset,
            data_collator=PretrainingCollator(tiny_tokenizer) if eval_dataset is None else pad,
            callbacks=callbacks,
        )

    return make
