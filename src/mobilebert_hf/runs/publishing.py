"""Where trainers hand over what they have made. Cards and publishing are above them, and register here."""

from collections.abc import Mapping
from typing import Any, Protocol

from .facts import ModelRecord


class Publisher(Protocol):
    """What makes cards, and publishes."""

    def write_card(self, record: ModelRecord, **fields: Any) -> None:
        """Writes a model's card into its folder; `fields` are the card's, such as `license`."""

    def publish(
        self, folder: str, repo: str, record: ModelRecord, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> Any:
        """Publishes the model in `folder`, of which `record` tells; `options` are `hub.publish`'s."""


_registered: list[Publisher] = []


def register_publisher(publisher: Publisher) -> None:
    """Names who makes cards; see `registration.py`."""
    _registered[:] = [publisher]


def get_publisher() -> Publisher:
    """Who makes cards."""
    [publisher] = _registered
    return publisher
