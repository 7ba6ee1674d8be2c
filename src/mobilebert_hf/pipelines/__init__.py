"""Pipelines that transformers has removed."""

from .question_answering import QuestionAnsweringPipeline, publish_code

__all__ = ["QuestionAnsweringPipeline", "publish_code"]
