"""From a student to a graph on a device's runtime."""

from .exporting import export

__all__ = ["export"]
