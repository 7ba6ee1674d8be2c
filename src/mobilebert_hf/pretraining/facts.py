"""What pre-training says of its models."""

from ..runs.facts import PICTURE, ModelFacts, recipe_command


def describe_pretrained(model_type: str) -> ModelFacts:
    """Of a network that was pre-trained without a teacher; `model_type` is its configuration's."""
    summary = "A teacher, IB-BERT, pre-trained on masked words and next sentences, from scratch."
    if model_type == "mobilebert":
        summary = "A MobileBERT pre-trained from scratch, without a teacher."
    return ModelFacts(summary=summary, picture=PICTURE, command=recipe_command("pretrain_teacher"))
