"""The original's TensorFlow 1 checkpoints: their names, their configuration, their files.

A checkpoint is named by the prefix of its files, such as `mobilebert/mobilebert_variables.ckpt` of
`mobilebert_variables.ckpt.index` and `mobilebert_variables.ckpt.data-00000-of-00001`. In the same folder are
`bert_config.json` and `vocab.txt`. To read and write the files takes TensorFlow; nothing else here does.
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
# What the original assumes of fields that its file leaves out.
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
# Theirs and ours; their gelu is the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "relu": "relu", "relu6": "relu6"}
# Ours and theirs, where the rules of `original_name` do not hold.
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
# Other names of the word table and of the masked-LM bias.
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def original_name(name: str, normalization_type: str) -> str:
    """The original's name of the variable that is our parameter `name`."""
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
    """Parameters from the original's variables.

    Args:
        variables: By their names; others than those of the parameters, such as an optimizer's, are left out.
        names: Our parameters'.
        normalization_type: Of the network.

    Raises:
        ValueError: Variables are missing; names them.
    """
    theirs = {name: original_name(name, normalization_type) for name in names if name not in TIED}
    if missing := sorted(set(theirs.values()) - variables.keys()):
        raise ValueError(
            f"The checkpoint has no {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}: is {CONFIG} another "
            "network's?"
        )
    return {name: torch.from_numpy(_turned(path, variables[path])) for name, path in theirs.items()}


def to_original(weights: Mapping[str, Tensor], normalization_type: str) -> dict[str, np.ndarray]:
    """The original's variables, in float32, from parameters; the inverse of `from_original`."""
    variables = {}
    for name, tensor in weights.items():
        if name not in TIED:
            path = original_name(name, normalization_type)
            variables[path] = _turned(path, tensor.detach().float().cpu().numpy())
    return variables


def _turned(path: str, array: np.ndarray) -> np.ndarray:
    """Their matrices are [in, out], ours [out, in]."""
    turned = path.endswith(("/kernel", "extra_output_weights"))
    return np.ascontiguousarray(array.T if turned else array)


def read_config(path: Path) -> MobileBertConfig:
    """The configuration of `bert_config.json`: a teacher's where neither bottleneck feeds query and key.

    Padding is not masked, as in the original; its masks are hard here (the newest version's are not: it replaces
    masked scores by -6).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It describes no network of this kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: put the checkpoint's {CONFIG} beside it.")
    fields = CONFIG_DEFAULTS | json.loads(path.read_text(encoding="utf-8"))
    if fields.get("hidden_act") not in ACTIVATIONS:
        raise ValueError(f"{path}: hidden_act={fields.get('hidden_act')!r} is not one of {', '.join(ACTIVATIONS)}.")
    if not fields["use_bottleneck"]:
        raise ValueError(f"{path}: use_bottleneck is not true: this is a BERT, not a MobileBERT.")
    teacher = not (fields["key_query_shared_bottleneck"] or fields["use_bottleneck_attention"])
    kept = {name: fields[name] for name in CONFIG_FIELDS if name in fields}
    kept |= {"hidden_act": ACTIVATIONS[fields["hidden_act"]], "mask_padding": False}
    return (IBBertConfig if teacher else MobileBertConfig)(**kept)


def write_config(config: MobileBertConfig, path: Path) -> None:
    """Writes `bert_config.json`.

    Raises:
        ValueError: The original knows no such network.
    """
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    if config.hidden_act not in activations:
        raise ValueError(f"hidden_act={config.hidden_act!r}: the original knows {', '.join(activations)} alone.")
    if config.layer_norm_eps != 1e-12 and config.normalization_type == "layer_norm":
        raise ValueError(f"layer_norm_eps={config.layer_norm_eps}: the original's is always 1e-12.")
    fields = {name: getattr(config, name) for name in CONFIG_FIELDS}
    fields["hidden_act"] = activations[config.hidden_act]
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """All variables of a checkpoint.

    Raises:
        ImportError: TensorFlow is not installed.
        OSError: The files are not whole.
    """
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, RuntimeError) as error:
        raise OSError(f"{prefix} cannot be read: {error}") from error


def write_variables(prefix: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Writes a checkpoint, as the original's `tf.train.Saver` does.

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
        raise ImportError('TensorFlow checkpoints need TensorFlow: pip install "mobilebert-hf[tensorflow]"') from error
    return tensorflow
