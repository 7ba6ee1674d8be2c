import random

import pytest
import torch

from mobilebert_hf import MobileBertConfig, MobileBertForPreTraining

from ..data.helpers import WORDS
from .helpers import SIZES


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, tiny_tokenizer):
    """The folder of a student as distillation leaves it, untrained."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    MobileBertForPreTraining(MobileBertConfig(vocab_size=len(tiny_tokenizer), **SIZES)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory):
    """Small files of tasks that are easy to learn: whether there is a mountain in a sentence, or in both."""
    folder = tmp_path_factory.mktemp("glue")
    rng = random.Random(0)
    words = [word for word in WORDS.split() if word != "mountain"]

    def sentence(mountain):
        chosen = rng.choices(words, k=5)
        return " ".join([*chosen, "mountain"] if mountain else [*chosen, "river"])

    def lines(task, count, labelled=True):
        for index in range(count):
            first, second = rng.random() < 0.5, rng.random() < 0.5
            if task == "CoLA":
                row, label = [sentence(first)], int(first)
            else:
                row = [sentence(first), sentence(second)]
                label = {
                    "STS-B": f"{2.5 * (first + second):.3f}",
                    "MNLI": ("neutral", "contradiction", "entailment")[first + second],
                    "AX": ("neutral", "contradiction", "entailment")[first + second],
                    "RTE": "entailment" if first == second else "not_entailment",
                }[task]
            yield "\t".join([str(index), *row, *([str(label)] if labelled else [])])

    splits = {
        "CoLA": ("train", "dev", "test"),
        "STS-B": ("train", "dev"),
        "RTE": ("train", "dev", "test"),
        "MNLI": ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
        "AX": ("diagnostic",),
    }
    for task, names in splits.items():
        (folder / task).mkdir()
        for name in names:
            labelled = name.startswith(("train", "dev"))
            header = ["index", "sentence"] if task == "CoLA" else ["index", "sentence1", "sentence2"]
            # What MNLI says is learned by no test.
            count = 24 if name != "train" else 80 if task == "MNLI" else 400
            text = "\n".join(["\t".join([*header, *(["label"] if labelled else [])]), *lines(task, count, labelled)])
            (folder / task / f"{name}.tsv").write_text(text + "\n")
    return str(folder)
