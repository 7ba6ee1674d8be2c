"""Small students, arguments and files for the tests of fine-tuning."""

import json
import random

from transformers import TrainingArguments

from mobilebert_hf.finetuning.encoder import EncoderArguments
from mobilebert_hf.finetuning.glue import GlueArguments
from mobilebert_hf.finetuning.sweep import GridArguments

from ..data.helpers import WORDS

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "embedding_size": 16,
    "intra_bottleneck_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    # Without the normalisation that NoNorm leaves out, so small a network learns only if it was pre-trained.
    "normalization_type": "layer_norm",
}
TRAINING = {
    "learning_rate": 5e-3,
    "num_train_epochs": 6,
    "per_device_train_batch_size": 16,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}


def glue_arguments(model, folder, output, grid=None, encoder=None, training=None, **glue):
    return (
        EncoderArguments(model=model, **(encoder or {})),
        GlueArguments(data=folder, max_seq_length=32, **glue),
        GridArguments(**(grid or {})),
        TrainingArguments(str(output), **{**TRAINING, **(training or {})}),
    )


WINDOWS = {"max_seq_length": 40, "doc_stride": 8, "max_question_length": 12, "feature_processes": 1}


def write_squad(path, count, seed, impossible=0.0):
    """Questions that name a word, the answer being the word after it, in an official file."""
    rng = random.Random(seed)
    words = sorted(set(WORDS.split()))
    questions = []
    for index in range(count):
        context = rng.sample(words, 14)
        place = rng.randrange(13)
        missing = rng.random() < impossible
        asked = next(word for word in words if word not in context) if missing else context[place]
        text = " ".join(context)
        answer = {"text": context[place + 1], "answer_start": len(" ".join(context[: place + 1])) + 1}
        qas = [
            {"id": f"q{index}", "question": asked, "answers": [] if missing else [answer], "is_impossible": missing}
        ]
        questions.append({"context": text, "qas": qas})
    path.write_text(json.dumps({"data": [{"title": "words", "paragraphs": questions}]}))
    return str(path)
