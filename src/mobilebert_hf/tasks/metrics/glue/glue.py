"""`evaluate.load("glue", task)`, from this package instead of the Hub."""

from typing import Any

import datasets
import evaluate

from mobilebert_hf.tasks.glue_scores import glue_scores
from mobilebert_hf.tasks.glue_tasks import TASKS, find_task

DESCRIPTION = """Scores of the GLUE benchmark, a configuration a task: Matthews correlation for CoLA and AX, Pearson
and Spearman correlation for STS-B, accuracy and F1 for MRPC and QQP, accuracy for the others."""


class Glue(evaluate.Metric):
    """One configuration a task."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name == "default":
            raise ValueError(f"GLUE has a metric a task: expected config_name to be one of {', '.join(TASKS)}.")
        value = datasets.Value("float64" if find_task(self.config_name).regression else "int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Wang et al. (2018). GLUE: A Multi-Task Benchmark. arXiv 1804.07461.",
            inputs_description=glue_scores.__doc__ or "",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return glue_scores(find_task(self.config_name), predictions, references)
