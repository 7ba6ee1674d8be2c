"""`evaluate` metric of SQuAD v2.0."""

from typing import Any

import datasets
import evaluate

from mobilebert_hf.tasks.squad_scores import PREDICTION, REFERENCE, squad_v2_scores


class SquadV2(evaluate.Metric):
    """Like `squad`; predictions also have `no_answer_probability`, and references may have no answers."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact match and F1 of SQuAD v2.0, in percent.",
            citation="Rajpurkar et al. (2018). Know What You Don't Know: Unanswerable Questions for SQuAD.",
            inputs_description=squad_v2_scores.__doc__ or "",
            features=datasets.Features(
                {
                    "predictions": {**PREDICTION, "no_answer_probability": datasets.Value("float64")},
                    "references": REFERENCE,
                }
            ),
        )

    def _compute(
        self,
        predictions: list[dict[str, Any]],
        references: list[dict[str, Any]],
        no_answer_threshold: float = 1.0,
    ) -> dict[str, Any]:
        return squad_v2_scores(
            {row["id"]: row["prediction_text"] for row in predictions},
            {row["id"]: row["answers"]["text"] for row in references},
            {row["id"]: row["no_answer_probability"] for row in predictions},
            no_answer_threshold,
        )
