"""A training run as a picture and a page."""

from .page import write_report
from .run_log import RunLog, read_run

__all__ = ["RunLog", "read_run", "write_report"]
