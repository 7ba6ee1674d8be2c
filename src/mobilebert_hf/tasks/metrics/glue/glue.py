"""`evaluate` metric of GLUE."""

from typing import Any

import datasets
import evaluate

from mobilebert_hf.tasks.glue_scores import glue_scores
from mobilebert_hf.tasks.glue_tasks import TASKS, find_task

DESCRIPTION = """Metrics of the GLUE benchmark, with a configuration per task: Matthews correlation for CoLA and AX,
Pearson and Spearman correlation for STS-B, accuracy and F1 for MRPC and QQP, accuracy for the others."""


class Glue(evaluate.Metric):
    """Metrics of one task, the configuration."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name == "default":
            raise ValueError(f"config_name is missing: expected one of {', '.join(TASKS)}.")
        value = datasets.Value("float64" if find_task(self.config_name).regression else "int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Wang et al. (2018). GLUE: A Multi-Task Benchmark. arXiv 1804.07461.",
            inputs_description=glue_scores.__doc__ or "",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return glue_scores(find_task(self.config_name), predictions, references)
