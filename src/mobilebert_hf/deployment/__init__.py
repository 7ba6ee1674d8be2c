"""From a student to a graph on a device's runtime."""

from .exporting import export
from .formats import FORMATS

__all__ = ["FORMATS", "export"]
