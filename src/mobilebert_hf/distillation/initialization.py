"""What a student copies from an IB-BERT teacher before training."""

import torch
from transformers import PreTrainedConfig

from ..models.modeling_mobilebert import MobileBertForPreTraining

# Fields that must be equal because transfer compares the two models there.
MATCHED_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "embedding_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "trigram_input",
)


def check_match(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Raises a ValueError that names every field in which the two cannot be compared layer by layer."""
    different = [name for name in MATCHED_FIELDS if getattr(student, name) != getattr(teacher, name)]
    if different:
        values = "; ".join(
            f"{name}: student {getattr(student, name)!r}, teacher {getattr(teacher, name)!r}" for name in different
        )
        raise ValueError(
            f"Student and teacher do not match ({values}). Layer-wise transfer needs the same values on both sides: "
            "make the student's configuration with those of the teacher."
        )


@torch.no_grad()
def initialize_from_teacher(student: MobileBertForPreTraining, teacher: MobileBertForPreTraining) -> list[str]:
    """Copies the teacher's embeddings, masked-LM head and next-sentence head into the student.

    These are the same parameters as in the original code: the tables of tokens, positions and types, the trigram dense
    layer, the masked-LM head with its extra matrix, the next-sentence head. The embedding norm is copied only between
    norms of the same kind: copying it into a NoNorm student, as it is or fitted to the teacher's embeddings, made no
    difference to the distilled student at the scale of the demo. If the student masks padding in its embeddings
    (`mask_padding`), its `[PAD]` row becomes zero.

    Args:
        student: Changed in place.
        teacher: Any dtype and device.

    Returns:
        The names of the parameters that were copied.

    Raises:
        ValueError: The configurations do not match.
    """
    check_match(student.config, teacher.config)
    source = teacher.state_dict()
    same_norm = student.config.normalization_type == teacher.config.normalization_type
    copied = []
    for name, parameter in student.named_parameters():
        outside_encoder = name.startswith(("mobilebert.embeddings.", "cls."))
        norm = name.startswith("mobilebert.embeddings.LayerNorm.")
        if outside_encoder and (same_norm or not norm):
            parameter.copy_(source[name])
            copied.append(name)
    if student.config.mask_padding and student.config.pad_token_id is not None:
        student.mobilebert.embeddings.word_embeddings.weight[student.config.pad_token_id] = 0
    return copied
