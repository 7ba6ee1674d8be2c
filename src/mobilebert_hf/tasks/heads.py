"""The table of heads and their tasks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """The task of a model with one head.

    Args:
        name: Name of the task on the Hub, and of its pipeline.
        auto_class: Name of the Auto class that loads the model.
        outputs: Names of an exported graph's outputs; empty for heads that are not exported.
        example: Example arguments of the pipeline.
        adapter: PEFT's task type, for heads that can be fine-tuned.
    """

    name: str
    auto_class: str
    outputs: tuple[str, ...] = ()
    example: tuple[str, ...] = ()
    adapter: str = ""


FEATURES = Task(
    "feature-extraction", "AutoModel", ("last_hidden_state",), ("A plane is taking off.",), "FEATURE_EXTRACTION"
)
QUESTION_ANSWERING = Task(
    "question-answering",
    "AutoModelForQuestionAnswering",
    ("start_logits", "end_logits"),
    ("Where do I live?", "My name is Wolfgang and I live in Berlin."),
    "QUESTION_ANS",
)
CLASSIFICATION = Task(
    "text-classification", "AutoModelForSequenceClassification", ("logits",), ("A delightful film.",), "SEQ_CLS"
)
TOKEN_CLASSIFICATION = Task(
    "token-classification", "AutoModelForTokenClassification", ("logits",), ("My name is Wolfgang.",), "TOKEN_CLS"
)
MASKED_LM = Task("fill-mask", "AutoModelForMaskedLM", ("logits",), ("The capital of France is [MASK].",))

# Tasks by the suffix of the model class, for all model types. The first match is used.
TASKS = {
    "ForQuestionAnswering": QUESTION_ANSWERING,
    "ForSequenceClassification": CLASSIFICATION,
    "ForTokenClassification": TOKEN_CLASSIFICATION,
    "ForMaskedLM": MASKED_LM,
    # The next-sentence head is only for training.
    "ForPreTraining": MASKED_LM,
    "ForNextSentencePrediction": Task("next-sentence-prediction", "AutoModelForNextSentencePrediction"),
    "ForMultipleChoice": Task("multiple-choice", "AutoModelForMultipleChoice"),
    "Model": FEATURES,
}
# The heads of every model type, each with the Auto class AutoModelFor... .
HEADS = tuple(suffix for suffix in TASKS if suffix != "Model")
EXPORTED = tuple(suffix for suffix, task in TASKS.items() if task.outputs)


def find_task(architecture: str) -> Task:
    """Returns the task of a model class; raises ValueError if its head cannot be exported."""
    for suffix in EXPORTED:
        if architecture.endswith(suffix):
            return TASKS[suffix]
    raise ValueError(f"{architecture} has no head to export: expected a class ending in {', '.join(EXPORTED)}.")
