"""The arguments of a distillation: which student of which teacher, and how it is trained."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from ..data.trimming import parse_keep
from ..recipe import parse_mapping
from ..training.arguments import PreTrainingArguments
from .loading import Consent
from .objectives import AttentionScores, FeatureMaps, MaskedLM, NextSentence, Objective, Relations
from .sentence_encoder import SentenceModules
from .sentence_objective import SentenceEmbeddings
from .shapes import BOTTLENECKS
from .strategies import Freezing, Strategy, StrategyName, build_strategy

# What a student learns besides the features of the layers: the outputs of the pre-training heads (masked LM and next
# sentence), of the masked-LM head, the embeddings of a sentence encoder, or nothing.
OutputName = Literal["pretraining", "masked_lm", "pooled", "features"]

# The paper's settings of `DistillationArguments`, for IB-BERT teachers.
PAPER: dict[str, Any] = {
    "strategy": "progressive",
    "transfer_steps": 240_000,
    "distillation_steps": 500_000,
    "transfer_lr_scale": 3.0,
    "embedding_lr_scale": 0.0,
    "feature_map_weight": 100.0,
    "mean_weight": 5000.0,
    "variance_weight": 5.0,
    "attention_weight": 1.0,
    "max_eval_samples": None,
}


@dataclass(kw_only=True)
class BaseStudentArguments:
    """The shape of a student, and what its teacher's files may do."""

    size: str = field(
        default="auto",
        metadata={
            "help": "The student's layers, for teachers other than IB-BERT. pruned: layers of the teacher with a "
            "third of the feed-forward neurons, and a narrow embedding table; kept: layers and table of the teacher; "
            f"{', '.join(BOTTLENECKS)}: the paper's bottlenecks in three widths. auto is pruned for a teacher with "
            "the layers of BERT, else small."
        },
    )
    layers: str = field(
        default="auto",
        metadata={
            "help": "The teacher's layer for each layer of the student: all (one to one), half "
            "(every second), or indices such as 1,3,5. auto is half of the layers for pruned and kept, else all."
        },
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Fields of the student's configuration to change: JSON on the command line, a mapping in YAML."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code that comes with the teacher. Read it first."}
    )
    allow_pickle: bool = field(
        default=False,
        metadata={"help": "Read a teacher whose weights are only in .bin files, which are pickles and can run code."},
    )

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields of the student's configuration that are given."""
        return parse_mapping("config_overrides", self.config_overrides)

    @property
    def consent(self) -> Consent:
        """What the teacher's files may do."""
        return Consent(self.trust_remote_code, self.allow_pickle)


@dataclass
class StudentArguments(BaseStudentArguments):
    """The teacher, and the student to make of it."""

    teacher: str = field(
        metadata={"help": "Hub id or folder of the teacher and its tokenizer: any BERT-like encoder."}
    )
    preset: str = field(
        default="mobilebert",
        metadata={
            "help": "For IB-BERT teachers: the student's configuration in the paper, mobilebert, mobilebert-tiny or "
            "mobilebert-noopt. What must match the teacher is taken from the teacher."
        },
    )
    objective: str = field(
        default="auto",
        metadata={
            "help": "What the student learns besides the features of the layers: pretraining (masked LM and next "
            "sentence, of IB-BERT), masked_lm (a teacher with that head), pooled (a sentence encoder, with "
            "modules.json) or features (nothing else). By default it depends on the teacher."
        },
    )
    keep_vocabulary: float | None = field(
        default=None,
        metadata={
            "help": "Trim the vocabulary of teacher and student to the corpus: the share of its tokens whose pieces "
            "are kept, such as 0.9995, or a number of pieces. By default all are kept."
        },
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Task to score teacher and student on at the end, without training: stsb, for encoders."},
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "For other teachers: the number of positions of the student, by default the length of the longest "
            "examples. More are possible where the teacher has a table of positions, from which they are copied."
        },
    )
    task_data: str | None = field(default=None, metadata={"help": "Folder of GLUE or Hub data set of the task."})

    def __post_init__(self) -> None:
        if self.objective not in ("auto", *get_args(OutputName)):
            raise ValueError(f"objective={self.objective!r} is not one of auto, {', '.join(get_args(OutputName))}.")
        if self.keep_vocabulary is not None:
            parse_keep(self.keep_vocabulary)
        if self.task not in (None, "stsb"):
            raise ValueError(f"task={self.task!r} is not known: expected stsb.")
        if self.task and not self.task_data:
            raise ValueError(f"task={self.task!r} needs task_data: GLUE's folder, or a Hub data set.")


@dataclass
class DistillationArguments(PreTrainingArguments):
    """`PreTrainingArguments`, and how knowledge is transferred.

    `max_steps` follows from the strategy. The defaults are for minutes to hours with any teacher; `PAPER` has the
    paper's settings for IB-BERT teachers.
    """

    per_device_train_batch_size: int = field(default=64, metadata={"help": "Training batch size per device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation batch size per device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW learning rate."})
    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW beta2."})
    weight_decay: float = field(
        default=0.01, metadata={"help": "AdamW weight decay. Not applied to norms and biases."}
    )
    strategy: StrategyName = field(
        default="auxiliary",
        metadata={
            "help": "auxiliary (all layers together with distillation), joint (all layers, then distillation), "
            "progressive (a stage for each layer from the bottom up, then distillation) or parallel (all layers, each "
            "on the teacher's features, then joint)."
        },
    )
    freezing: Freezing = field(
        default="soft",
        metadata={
            "help": "Layers below the current one in progressive transfer: frozen (hard) or trained slowly (soft)."
        },
    )
    transfer_steps: int = field(default=0, metadata={"help": "Steps of transfer of all layers together."})
    distillation_steps: int = field(
        default=2_000,
        metadata={"help": "Steps of distillation of the outputs, after the transfer or together with it."},
    )
    minutes: float | None = field(
        default=None,
        metadata={
            "help": "Plan the run to this time: the first steps are timed, and the numbers of steps are scaled in "
            "proportion."
        },
    )
    transfer_layers: str = field(
        default="auto",
        metadata={
            "help": "Layers whose features are compared by the auxiliary strategy: all or last. auto is last for a "
            "pruned student, else all."
        },
    )
    transfer_lr_scale: float = field(
        default=1.0, metadata={"help": "Factor of the learning rate for layers being transferred."}
    )
    embedding_lr_scale: float = field(
        default=1.0,
        metadata={"help": "Factor of the learning rate for the embeddings during transfer; 0 freezes them."},
    )
    distillation_warmup_ratio: float = field(
        default=0.02, metadata={"help": "Share of the distillation stage that is learning-rate warm-up."}
    )
    feature_map_weight: float = field(default=6.0, metadata={"help": "Weight of the normalized feature-map loss."})
    mean_weight: float = field(
        default=1.0, metadata={"help": "Weight of the squared difference of the features' means."}
    )
    variance_weight: float = field(
        default=1.0, metadata={"help": "Weight of the absolute difference of the features' variances."}
    )
    attention_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the KL divergence of the attention distributions; needs equal numbers of heads. 0 "
            "leaves it out."
        },
    )
    relation_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the KL divergence of the relations of queries, keys and values (MiniLMv2). 0 leaves it "
            "out."
        },
    )
    pooled_weight: float = field(
        default=20.0,
        metadata={
            "help": "For sentence encoders: weight of the distance of the embeddings, 1 - cosine similarity or, if "
            "the teacher's similarity depends on lengths, the relative squared distance."
        },
    )
    matryoshka: str | None = field(
        default=None,
        metadata={
            "help": "For sentence encoders: numbers of dimensions such as 384,256,128,64. The first so many "
            "dimensions of the student's embeddings are trained to keep the teacher's similarities by themselves."
        },
    )
    alpha: float = field(
        default=0.5, metadata={"help": "Share of the labels in masked-LM distillation; the rest is the teacher's."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of both models' masked-LM logits in distillation."}
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={
            "help": "Data type of the teacher, such as float32. auto is bfloat16 where the hardware multiplies "
            "matrices in it (CUDA since Ampere, CPUs with AMX), else float32."
        },
    )
    max_eval_samples: int | None = field(
        default=2_000, metadata={"help": "Evaluate on at most this many held-out examples; none: on all."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transfer_layers not in ("auto", "all", "last"):
            raise ValueError(f"transfer_layers={self.transfer_layers!r} is not one of auto, all, last.")
        if self.transfer_layers == "last" and self.strategy != "auxiliary":
            raise ValueError(
                f"transfer_layers='last' with strategy={self.strategy!r}: only the auxiliary strategy can leave "
                "layers out."
            )
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes is {self.minutes}: expected a number above 0.")

    def build_strategy(self, num_layers: int) -> Strategy:
        """The strategy for a student of `num_layers` layers; a ValueError where a number does not fit."""
        return build_strategy(
            self.strategy,
            num_layers,
            self.transfer_steps,
            self.distillation_steps,
            self.freezing,
            self.transfer_lr_scale,
            self.distillation_warmup_ratio,
            self.embedding_lr_scale,
            only_last=self.transfer_layers == "last",
        )

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The numbers of `matryoshka`, the largest first; a ValueError if they are none."""
        words = str(self.matryoshka).split(",") if self.matryoshka is not None else []
        if not all(word.strip().isdigit() and int(word) > 0 for word in words):
            raise ValueError(f"matryoshka={self.matryoshka!r}: expected numbers of dimensions, such as 256,128,64.")
        return tuple(sorted({int(word) for word in words}, reverse=True))

    def build_objectives(
        self, output: OutputName = "pretraining", sentence: SentenceModules | None = None
    ) -> list[Objective]:
        """The objectives with a weight above 0, and those of the outputs.

        Args:
            output: What the student learns besides the features of the layers.
            sentence: The modules of a sentence encoder after its network.
        """
        compare_lengths = sentence is not None and sentence.compares_lengths
        # An IB-BERT's embeddings are copied; all others are approximated, and trained.
        objectives: list[Objective] = [
            FeatureMaps(
                self.feature_map_weight, self.mean_weight, self.variance_weight, embeddings=output != "pretraining"
            )
        ]
        if self.attention_weight > 0:
            objectives.append(AttentionScores(self.attention_weight))
        if self.relation_weight > 0:
            objectives.append(Relations(self.relation_weight))
        outputs: dict[OutputName, list[Objective]] = {
            "pretraining": [MaskedLM(self.alpha, self.temperature), NextSentence()],
            "masked_lm": [MaskedLM(self.alpha, self.temperature)],
            "pooled": [SentenceEmbeddings(self.pooled_weight, sentence, compare_lengths, self.dimensions)],
            "features": [],
        }
        return objectives + outputs[output]

    def resolve_teacher_dtype(self) -> torch.dtype:
        """The data type of `teacher_dtype` on the device of the arguments.

        Raises:
            ValueError: It is not a floating data type of torch.
        """
        if self.teacher_dtype != "auto":
            dtype = getattr(torch, self.teacher_dtype, None)
            if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
                raise ValueError(f"teacher_dtype={self.teacher_dtype!r} is not a floating dtype of torch or 'auto'.")
            return dtype
        has_bfloat16 = {
            "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
            "cpu": lambda: torch.cpu.get_capabilities().get("amx_bf16", False),
        }.get(self.device.type, lambda: False)
        return torch.bfloat16 if has_bfloat16() else torch.float32
