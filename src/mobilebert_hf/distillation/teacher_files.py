"""Reads a teacher's files: its network, with the head that its weights really have, its tokenizer, its modules."""

from typing import NamedTuple

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data import load_tokenizer
from ..models.configuration import IBBertConfig, MobileBertConfig
from ..training.compat import find_file
from .arguments import OutputName, StudentArguments
from .loading import Consent, load_config, load_network
from .sentence_encoder import MODULES, SentenceModules, load_sentence_modules, network_folder

# The ends of the names of architectures that can have a masked-LM head. An ELECTRA for pre-training has none.
MASKED_LM_CLASSES = ("ForMaskedLM", "ForPreTraining")


class LoadedTeacher(NamedTuple):
    """A teacher as its files describe it.

    Args:
        network: In float32, on the CPU.
        output: What its student learns besides the features of the layers.
        tokenizer: Its tokenizer.
        sentence: What surrounds the network, for sentence encoders.
        notes: What the user should know.
    """

    network: PreTrainedModel
    output: OutputName
    tokenizer: PreTrainedTokenizerBase
    sentence: SentenceModules | None = None
    notes: tuple[str, ...] = ()


def load_teacher(student: StudentArguments) -> LoadedTeacher:
    """Loads a teacher; the objective is that of the arguments or, for `"auto"`, that which its weights allow.

    Raises:
        ValueError: It needs consent that was not given, its weights are incomplete, or it lacks what the objective
            needs.
    """
    name, consent = student.teacher, student.consent
    if student.objective == "pooled" or find_file(name, MODULES) is not None:
        sentence = load_sentence_modules(name, consent)
        if student.objective in ("auto", "pooled"):
            network = _load_encoder(name, consent)
            return LoadedTeacher(network, "pooled", sentence.tokenizer, sentence)
        tokenizer = sentence.tokenizer
    else:
        tokenizer = load_tokenizer(name, trust_remote_code=consent.remote_code)
    config = load_config(name, consent, network_folder(name))
    if _learns_pretraining(student, config):
        return LoadedTeacher(load_network(AutoModelForPreTraining, name, consent).network, "pretraining", tokenizer)
    if student.objective == "features":
        return LoadedTeacher(_load_encoder(name, consent), "features", tokenizer)
    classes = config.architectures or []
    if student.objective == "auto" and classes and not any(each.endswith(MASKED_LM_CLASSES) for each in classes):
        return LoadedTeacher(_load_encoder(name, consent), "features", tokenizer)
    with_head, reason = _load_masked_lm(name, consent, config)
    if with_head is not None:
        return LoadedTeacher(with_head, "masked_lm", tokenizer)
    if student.objective == "masked_lm":
        raise ValueError(f"objective='masked_lm': {name} {reason}. Choose features, or leave it out.")
    note = f"{name} {reason}: the student learns the features of the layers alone."
    return LoadedTeacher(_load_encoder(name, consent), "features", tokenizer, notes=(note,) if classes else ())


def _learns_pretraining(student: StudentArguments, config: PreTrainedConfig) -> bool:
    """Whether the student learns from the pre-training heads of an IB-BERT."""
    has_heads = any(each.endswith("ForPreTraining") for each in config.architectures or [])
    if student.objective == "auto":
        return has_heads and isinstance(config, IBBertConfig)
    if student.objective == "pretraining" and not (has_heads and isinstance(config, MobileBertConfig)):
        raise ValueError(
            f"objective='pretraining' needs an IB-BERT teacher with its pre-training heads, but "
            f"{student.teacher} is a {config.model_type}: leave it out, or choose masked_lm, pooled or features."
        )
    return student.objective == "pretraining"


def _load_encoder(name: str, consent: Consent) -> PreTrainedModel:
    loaded = load_network(AutoModel, name, consent, network_folder(name))
    if loaded.missing:
        raise ValueError(_incomplete(name, loaded.missing))
    return loaded.network


def _load_masked_lm(name: str, consent: Consent, config: PreTrainedConfig) -> tuple[PreTrainedModel | None, str]:
    """The model with its masked-LM head; or None and the reason why it has none."""
    remote = "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForMaskedLM._model_mapping and not remote:
        return None, f"({config.model_type}) has no masked-LM head"
    network, missing = load_network(AutoModelForMaskedLM, name, consent, network_folder(name))
    encoder = [key for key in missing if key.startswith(f"{network.base_model_prefix}.")]
    if encoder:
        raise ValueError(_incomplete(name, encoder))
    if missing:
        return None, f"has no weights of a masked-LM head (missing: {', '.join(missing[:3])})"
    return network, ""


def _incomplete(name: str, missing: "list[str] | tuple[str, ...]") -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"The weights of {name} are incomplete: {', '.join(missing[:3])}{more} are missing."
