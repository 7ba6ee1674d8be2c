"""Reports of training runs: `report.png` and `report.html` from the files of a run folder."""

from .page import write_report

__all__ = ["write_report"]
