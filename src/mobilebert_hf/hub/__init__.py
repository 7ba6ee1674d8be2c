"""Where networks come from and go to: conversion, model cards, publishing."""

from .conversion import convert
from .publishing import prepared, publish

__all__ = ["convert", "prepared", "publish"]
