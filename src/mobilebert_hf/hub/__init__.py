"""Model cards and publishing on the Hub."""

from .publishing import prepare_publication, publish

__all__ = ["prepare_publication", "publish"]
