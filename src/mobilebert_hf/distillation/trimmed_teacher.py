"""A teacher with the vocabulary of the corpus, as a folder in the run folder."""

from dataclasses import replace
from pathlib import Path

from ..data import PretrainingDataArguments
from ..data.trimmed_model import Trimming, trim_model
from ..data.trimming import parse_keep
from ..files import locked, remove
from .arguments import DistillationArguments, StudentArguments

CACHE, TEACHER = "cache", "teacher"


def trim_teacher(
    student: StudentArguments, data: PretrainingDataArguments, training: DistillationArguments
) -> tuple[StudentArguments, Trimming | None]:
    """The arguments of a student of the trimmed teacher, and what was trimmed; without `keep_vocabulary` as they are.

    One process trims the teacher, once for the run and all that resume it.

    Raises:
        ValueError: The teacher or its tokenizer cannot be trimmed.
    """
    if student.keep_vocabulary is None:
        return student, None
    cache = Path(training.output_dir or ".") / CACHE
    folder, keep = cache / TEACHER, parse_keep(student.keep_vocabulary)
    with training.main_process_first(desc="trimming the teacher"), locked(cache):
        trimming = Trimming.read(folder) if folder.is_dir() else None
        made_from = trimming and (trimming.model, trimming.corpus, trimming.keep)
        if trimming is None or made_from != (student.teacher, data.corpus, keep):
            remove(folder)
            trimming = trim_model(
                student.teacher,
                data.corpus,
                keep,
                folder,
                text_column=data.text_column,
                encoding_errors=data.encoding_errors,
            )
    return replace(student, teacher=str(folder)), trimming
