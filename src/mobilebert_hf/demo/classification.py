"""The classification task of the demo: which of ten textbooks is a paragraph from?"""

import time
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..progress import show_progress
from ..runs.facts import ModelFacts, Source
from .corpus import paragraph_classification

MAX_LENGTH = 64  # the sequence length of the demo's pre-training


def load_task(tokenizer: PreTrainedTokenizerBase, train_size: int, test_size: int) -> DatasetDict:
    """Loads the tokenized task. Test paragraphs come from sections that no model was trained on."""
    task = paragraph_classification(train_size, test_size)
    return task.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH),
        batched=True,
        remove_columns=["text"],
    )


def fine_tune(model_folder: Path, task: DatasetDict, tokenizer: PreTrainedTokenizerBase, output_dir: Path) -> float:
    """Fine-tunes a pre-trained model on the task, saves the classifier, and returns its test accuracy."""
    set_seed(0)
    labels = task["train"].features["label"].names
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, id2label=dict(enumerate(labels)), label2id={name: index for index, name in enumerate(labels)}
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            str(output_dir),
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=1e-3,
            num_train_epochs=4,
            warmup_steps=0.1,
            weight_decay=0.01,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_steps=10,
            dataloader_pin_memory=False,
            disable_tqdm=False,
        ),
        train_dataset=task["train"],
        eval_dataset=task["test"],
        processing_class=tokenizer,
        compute_metrics=_accuracy,
    )
    show_progress(trainer, f"fine-tuning {model_folder.name}")
    trainer.train()
    trainer.save_model()
    accuracy = trainer.evaluate()["eval_accuracy"]
    ModelFacts(
        summary="{source}, fine-tuned to tell which of ten textbooks a paragraph is from.",
        source=Source.of("base", str(model_folder)),
        results=(("", "this model"), ("accuracy on held-out paragraphs", f"{accuracy:.1%}")),
    ).write(output_dir)
    return accuracy


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}


@torch.inference_mode()
def latencies(models: dict[str, PreTrainedModel], length: int = 128, rounds: int = 30) -> dict[str, float]:
    """Returns the median milliseconds of a forward pass with batch size 1. The models take turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    inputs = {"input_ids": torch.ones((1, length), dtype=torch.long)}
    for turn in range(rounds + 3):
        for name, model in models.items():
            start = time.perf_counter()
            model.eval()(**inputs)
            if turn >= 3:  # after 3 turns of warm-up
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}
