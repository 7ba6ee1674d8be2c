"""The table of heads: what each is for, what loads it, what it gives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a network with one head is for.

    Args:
        name: The Hub's name of the task, which is the pipeline's where there is one.
        auto_class: The name of the Auto class that loads such a network to use it.
        outputs: The names of an exported graph's outputs; empty for heads that are not exported.
        example: What a pipeline is called with; a question comes with its context.
        adapter: PEFT's name of the task, for heads that are fine-tuned here.
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
MASKED_LM = Task("fill-mask", "AutoModelForMaskedLM", ("logits",), ("The capital of France is [MASK].",))

# By what the name of a model's class ends with, in all families; the first that fits.
TASKS = {
    "ForQuestionAnswering": QUESTION_ANSWERING,
    "ForSequenceClassification": CLASSIFICATION,
    "ForTokenClassification": Task(
        "token-classification", "AutoModelForTokenClassification", ("logits",), ("My name is Wolfgang.",)
    ),
    "ForMaskedLM": MASKED_LM,
    # What is left after pre-training fills masks; its next-sentence head is for training.
    "ForPreTraining": MASKED_LM,
    "ForNextSentencePrediction": Task("next-sentence-prediction", "AutoModelForNextSentencePrediction"),
    "ForMultipleChoice": Task("multiple-choice", "AutoModelForMultipleChoice"),
    "Model": FEATURES,
}
# AutoModelForX is registered for ...ForX of all families.
HEADS = tuple(ending for ending in TASKS if ending != "Model")
EXPORTED = tuple(ending for ending, task in TASKS.items() if task.outputs)


def find_task(architecture: str) -> Task:
    """The task of a model class.

    Raises:
        ValueError: Its head is not one that is exported.
    """
    for ending in EXPORTED:
        if architecture.endswith(ending):
            return TASKS[ending]
    raise ValueError(f"{architecture} has no head to export: expected a class ending in {', '.join(EXPORTED)}.")
