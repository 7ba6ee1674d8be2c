"""Small students and their exports."""

import torch
from filelock import FileLock

import mobilebert_hf
from mobilebert_hf import MobileBertConfig
from mobilebert_hf.deployment import export
from mobilebert_hf.deployment.check import run_pytorch
from mobilebert_hf.runs.exports import MANIFEST

SIZES = {
    "hidden_size": 32,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "intra_bottleneck_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False}


def save(folder, tokenizer, head="ForQuestionAnswering", seed=0, **fields):
    torch.manual_seed(seed)
    config = MobileBertConfig(vocab_size=len(tokenizer), **{**SIZES, **fields})
    getattr(mobilebert_hf, f"MobileBert{head}")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class InstantFormat:
    """In place of a format: its graphs are the prepared networks, and its runtime is PyTorch.

    For what does not depend on a format's converter and runtime. Those take seconds.
    """

    PACKAGES, INSTALL, FOLDS = (), "", ()

    def __init__(self, files):
        self.FILES = files

    def write(self, network, task, path, quantize=None, calibration=()):
        torch.save(network, path)

    def unsigned_matmuls(self, path):
        return ()

    def load(self, path, task, threads=1):
        return run_pytorch(torch.load(path, weights_only=False))


class SharedExports:
    """Exports that several tests look at, each made once for all test processes."""

    def __init__(self, folder, tokenizer, corpus):
        self.folder, self.tokenizer, self.corpus = folder, tokenizer, str(corpus)

    def __call__(self, format="onnx", quantize=None, head="ForQuestionAnswering"):
        """The folder of an export, beside the folder `model` of its student: to be copied, not changed."""
        folder = self.folder / f"{format}-{quantize}-{head}"
        text = [self.corpus] if quantize == "int8-static" else ()
        with FileLock(f"{folder}.lock"):
            if not (folder / "out" / MANIFEST).exists():
                model = save(folder / "model", self.tokenizer, head)
                export(model, folder / "out", format, quantize, calibration=text)
        return folder / "out"
