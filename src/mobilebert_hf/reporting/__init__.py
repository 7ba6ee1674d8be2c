"""What a training run did, from the files in its folder: `report.png` and `report.html`."""

from .page import write_report

__all__ = ["write_report"]
