"""No argument is without effect: each counts, or is refused with the reason."""

import pytest

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.distillation import DistillationArguments, StudentArguments
from mobilebert_hf.distillation.options import check_dimensions, check_objective, check_schedule

from ..helpers import training_arguments

TEXT = {"corpus": ["none"]}


@pytest.fixture
def training(tmp_path):
    return lambda **changes: training_arguments(DistillationArguments, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 7}, "max_steps=7 has no effect: the number of steps is transfer_steps"),
        ({"num_train_epochs": 1}, "num_train_epochs=1 has no effect: the length is that of transfer_steps"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type=.* has no effect: the curves"),
        ({"warmup_steps": 10}, "warmup_steps=10 has no effect: .* set distillation_warmup_ratio"),
        ({"minutes": 5, "distillation_steps": 9}, "distillation_steps=9 has no effect beside minutes=5"),
        ({"minutes": 5, "transfer_steps": 9}, "transfer_steps=9 has no effect beside minutes=5"),
    ],
)
def test_the_librarys_schedule_is_refused(training, changes, message):
    with pytest.raises(ValueError, match=message):
        check_schedule(training(**changes))


def test_what_counts_is_accepted(training):
    check_schedule(training(minutes=5))
    check_schedule(training(distillation_steps=9, transfer_steps=3))
    # Their proportion counts.
    check_schedule(training(minutes=5, strategy="joint", distillation_steps=9, transfer_steps=3))


@pytest.mark.parametrize(
    ("output", "changes", "message"),
    [
        ("masked_lm", {"examples": "pairs"}, "examples='pairs' are for next-sentence prediction, which a student"),
        ("pooled", {"preset": "mobilebert-tiny"}, "preset='mobilebert-tiny' has no effect: it is for IB-BERT"),
        ("pretraining", {"size": "tiny"}, "size='tiny' has no effect: it is for teachers other than IB-BERT"),
        ("pretraining", {"task": "stsb", "task_data": "x"}, "task='stsb' has no effect"),
        (
            "pooled",
            {"mlm_probability": 0.3},
            "mlm_probability=0.3 has no effect: it is for students that learn masked",
        ),
        ("features", {"alpha": 0.1}, "alpha=0.1 has no effect"),
        (
            "features",
            {"pooled_weight": 1.0},
            "pooled_weight=1.0 has no effect: it is for students of sentence encoders",
        ),
        ("masked_lm", {"matryoshka": "8,4"}, "matryoshka='8,4' has no effect"),
    ],
)
def test_arguments_of_other_objectives_are_refused(training, output, changes, message):
    classes = {StudentArguments: {"teacher": "none"}, PretrainingDataArguments: TEXT}
    student, data = (
        cls(**given, **{name: value for name, value in changes.items() if name in cls.__dataclass_fields__})
        for cls, given in classes.items()
    )
    rest = {
        name: value for name, value in changes.items() if not any(name in cls.__dataclass_fields__ for cls in classes)
    }
    with pytest.raises(ValueError, match=message):
        check_objective(output, student, data, training(**rest))


def test_numbers_of_dimensions(training):
    assert training(matryoshka="64, 256,128").dimensions == (256, 128, 64)
    assert training().dimensions == ()
    with pytest.raises(ValueError, match="matryoshka='64,x': expected numbers of dimensions, such as 256,128,64"):
        assert training(matryoshka="64,x").dimensions
    with pytest.raises(ValueError, match="matryoshka='64': the teacher's embeddings have 32 dimensions"):
        check_dimensions(training(matryoshka="64"), 32)
