"""MobileBERT for the Hugging Face ecosystem. Importing this package registers its models with the Auto classes."""

from . import models
from .models import *  # noqa: F403
from .registration import register

__version__ = "0.1.0"
__all__ = [*models.__all__, "register"]

register()
