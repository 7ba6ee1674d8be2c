"""Where networks go to: model cards, publishing."""

from .publishing import prepared, publish

__all__ = ["prepared", "publish"]
