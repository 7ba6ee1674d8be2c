"""Export of students to inference runtimes."""

from .exporting import export
from .formats import FORMATS

__all__ = ["FORMATS", "export"]
