"""The original TensorFlow 1 checkpoints: variable names, configuration and files.

A checkpoint is identified by the prefix of its files: `variables.ckpt` for `variables.ckpt.index` and
`variables.ckpt.data-00000-of-00001`. `bert_config.json` and `vocab.txt` are in the same folder. Only
`read_variables` and `write_variables` need TensorFlow.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.configuration import IBBertConfig, MobileBertConfig

CONFIG, VOCABULARY = "bert_config.json", "vocab.txt"
# The original's defaults of fields that `bert_config.json` can omit.
CONFIG_DEFAULTS: dict[str, Any] = {
    "use_bottleneck": False,
    "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": False,
    "num_feedforward_networks": 1,
    "normalization_type": "layer_norm",
    "classifier_activation": True,
    "trigram_input": False,
}
CONFIG_FIELDS = (
    *CONFIG_DEFAULTS,
    "attention_probs_dropout_prob",
    "embedding_size",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "intra_bottleneck_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
)
# Original -> transformers. The original gelu is the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "relu": "relu", "relu6": "relu6"}
# Parameter -> variable, where the rules of `original_name` do not apply.
HEADS = {
    "cls.predictions.dense.weight": "cls/predictions/extra_output_weights",
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    "qa_outputs.weight": "cls/squad/output_weights",
    "qa_outputs.bias": "cls/squad/output_bias",
    "classifier.weight": "output_weights",
    "classifier.bias": "output_bias",
}
# Parameters that share the weights of the word embeddings and of the masked-LM bias.
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def original_name(name: str, normalization_type: str) -> str:
    """Returns the original variable name of a parameter."""
    if name in HEADS:
        return HEADS[name]
    path = name.replace(".", "/").replace("mobilebert/", "bert/")
    path = path.replace("encoder/layer/", "encoder/layer_").replace("ffn/", "ffn_layer_")
    path = path.replace("_embeddings/weight", "_embeddings")
    path = path.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
    if normalization_type == "no_norm" and not path.startswith("cls/"):
        path = path.replace("LayerNorm", "FakeLayerNorm")
    return path.replace("/weight", "/kernel")


def from_original(
    variables: Mapping[str, np.ndarray], names: Iterable[str], normalization_type: str
) -> dict[str, Tensor]:
    """Converts original variables to parameters.

    Args:
        variables: Original variables by name. Variables of other names, such as optimizer slots, are ignored.
        names: Names of the parameters.
        normalization_type: Of the model's configuration.

    Returns:
        Parameters by name, without tied ones.

    Raises:
        ValueError: Variables are missing.
    """
    paths = {name: original_name(name, normalization_type) for name in names if name not in TIED}
    if missing := sorted(set(paths.values()) - variables.keys()):
        listed = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        raise ValueError(f"The checkpoint has no {listed}. Use the {CONFIG} of this checkpoint.")
    return {name: torch.from_numpy(_transpose_kernel(path, variables[path])) for name, path in paths.items()}


def to_original(weights: Mapping[str, Tensor], normalization_type: str) -> dict[str, np.ndarray]:
    """Converts parameters to original variables in float32; the inverse of `from_original`."""
    variables = {}
    for name, tensor in weights.items():
        if name not in TIED:
            path = original_name(name, normalization_type)
            variables[path] = _transpose_kernel(path, tensor.detach().float().cpu().numpy())
    return variables


def _transpose_kernel(path: str, array: np.ndarray) -> np.ndarray:
    """Transposes kernels: TensorFlow has [in, out], PyTorch [out, in]."""
    is_kernel = path.endswith(("/kernel", "extra_output_weights"))
    return np.ascontiguousarray(array.T if is_kernel else array)


def read_config(path: Path) -> MobileBertConfig:
    """Reads `bert_config.json`. It describes a teacher if query and key do not read a bottleneck.

    `mask_padding` is off, as in the original. Attention masks are hard (the original's latest version replaces masked
    scores by -6 instead).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file does not describe a MobileBERT or IB-BERT.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Copy the checkpoint's {CONFIG} there.")
    fields = CONFIG_DEFAULTS | json.loads(path.read_text(encoding="utf-8"))
    if fields.get("hidden_act") not in ACTIVATIONS:
        raise ValueError(f"{path}: hidden_act={fields.get('hidden_act')!r}: expected one of {', '.join(ACTIVATIONS)}.")
    if not fields["use_bottleneck"]:
        raise ValueError(f"{path}: use_bottleneck is not true: this is a BERT, not a MobileBERT.")
    teacher = not (fields["key_query_shared_bottleneck"] or fields["use_bottleneck_attention"])
    values = {name: fields[name] for name in CONFIG_FIELDS if name in fields}
    values |= {"hidden_act": ACTIVATIONS[fields["hidden_act"]], "mask_padding": False}
    return (IBBertConfig if teacher else MobileBertConfig)(**values)


def write_config(config: MobileBertConfig, path: Path) -> None:
    """Writes `bert_config.json`.

    Raises:
        ValueError: The original does not support the configuration.
    """
    activations = {name: original for original, name in ACTIVATIONS.items()}
    if config.hidden_act not in activations:
        raise ValueError(f"hidden_act={config.hidden_act!r}: the original supports only {', '.join(activations)}.")
    if config.layer_norm_eps != 1e-12 and config.normalization_type == "layer_norm":
        raise ValueError(f"layer_norm_eps={config.layer_norm_eps}: the original supports only 1e-12.")
    fields = {name: getattr(config, name) for name in CONFIG_FIELDS}
    fields["hidden_act"] = activations[config.hidden_act]
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """Reads all variables of a checkpoint.

    Raises:
        ImportError: TensorFlow is not installed.
        OSError: The files cannot be read.
    """
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, RuntimeError) as error:
        raise OSError(f"{prefix} cannot be read: {error}") from error


def write_variables(prefix: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Writes a checkpoint in the format of `tf.train.Saver`.

    Raises:
        ImportError: TensorFlow is not installed.
    """
    tensorflow = _tensorflow()
    names = sorted(variables)
    tensors = [tensorflow.constant(variables[name]) for name in names]
    slices = [""] * len(names)
    tensorflow.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=slices, tensors=tensors)


def _tensorflow() -> ModuleType:
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError('Original checkpoints need TensorFlow: pip install "mobilebert-hf[tensorflow]"') from error
    return tensorflow
