"""`evaluate` metric of SQuAD v1.1."""

from typing import Any

import datasets
import evaluate

from mobilebert_hf.tasks.squad_scores import PREDICTION, REFERENCE, squad_scores


class Squad(evaluate.Metric):
    """Predictions are `{"id": ..., "prediction_text": ...}`, references `{"id": ..., "answers": {"text": [...]}}`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact match and F1 of SQuAD v1.1, in percent.",
            citation="Rajpurkar et al. (2016). SQuAD: 100,000+ Questions for Machine Comprehension of Text.",
            inputs_description=squad_scores.__doc__ or "",
            features=datasets.Features({"predictions": PREDICTION, "references": REFERENCE}),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        return squad_scores(
            {row["id"]: row["prediction_text"] for row in predictions},
            {row["id"]: row["answers"]["text"] for row in references},
        )
