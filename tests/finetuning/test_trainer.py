"""What fine-tuning knows before the library's Trainer does."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from mobilebert_hf.finetuning.trainer import planned_steps


@pytest.mark.parametrize("examples", [1, 7, 8, 9, 64])
@pytest.mark.parametrize(
    "changes", [{}, {"max_steps": 5}, {"num_train_epochs": 2.5, "gradient_accumulation_steps": 3}]
)
def test_planned_steps_are_the_librarys(tmp_path, examples, changes):
    arguments = TrainingArguments(
        str(tmp_path), **{"per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none", **changes}
    )
    data = Dataset.from_dict({"input": list(range(examples))})
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=data)
    values = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())
    assert planned_steps(arguments, examples) == values[-1]
