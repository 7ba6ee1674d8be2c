"""Pipelines that transformers does not have any more."""

from .question_answering import QuestionAnsweringPipeline, publish_code

__all__ = ["QuestionAnsweringPipeline", "publish_code"]
