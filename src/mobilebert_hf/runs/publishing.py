"""The interface by which trainers write cards and publish. `hub` implements it and registers here."""

from collections.abc import Mapping
from typing import Any, Protocol

from .facts import ModelRecord


class Publisher(Protocol):
    """Writes model cards and publishes models."""

    def write_card(self, record: ModelRecord, **fields: Any) -> None:
        """Writes the card of a model to its folder; `fields` are card fields such as `license`."""

    def publish(
        self, folder: str, repo: str, record: ModelRecord, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> Any:
        """Publishes the model in `folder`; `options` are arguments of `hub.publish`, `fields` are card fields."""


_registered: list[Publisher] = []


def register_publisher(publisher: Publisher) -> None:
    """Registers the publisher; called by `registration.py`."""
    _registered[:] = [publisher]


def get_publisher() -> Publisher:
    """Returns the registered publisher."""
    [publisher] = _registered
    return publisher
