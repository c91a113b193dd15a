"""
Sound that belongs to a task, and stands in the metadata of its row because the Responses API has no place for it.

Source: the keys are NeMo Gym's; its `vllm_model` puts the sound into the last message of the user, before the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gymcore import ModelError
from gymcore.responses import Item

__all__ = ["Sound"]

_KEYS = ("audio_data", "audio_path", "audio_paths")


@dataclass(frozen=True, slots=True)
class Sound:
    """A part for one message of the user: the last one with which the rollout begins, where it stays."""

    part: Item
    place: int
    """Which item of the conversation the message is."""

    @classmethod
    def take(cls, metadata: dict[str, Any], items: Sequence[Item], *, is_chat: bool) -> Sound | None:
        """
        Take the sound out of a task's metadata, if there is any.

        Args:
            metadata: The metadata, which loses it.
            items: The conversation with which the rollout begins.
            is_chat: Whether it is said by the Chat Completions API, which alone can carry sound.

        Raises:
            ModelError: nobody would hear it.
        """
        found = [key for key in _KEYS if metadata.get(key)]
        if not found:
            return None
        if found != ["audio_data"]:
            told = f"the task's metadata has {' and '.join(found)}, and only one audio_data can be sent"
            raise ModelError(told, hints=["try: audio_data, a data: URL that holds the sound"], retryable=False)
        if not is_chat:
            told = "the Responses API cannot carry the task's metadata.audio_data"
            raise ModelError(told, hints=["try: api: chat"], retryable=False)
        place = max((index for index, item in enumerate(items) if _is_the_users(item)), default=-1)
        part = {"type": "audio_url", "audio_url": {"url": metadata.pop("audio_data")}}
        return cls(part, place)

    def heard_in(self, items: tuple[Item, ...]) -> tuple[Item, ...]:
        """
        Return a conversation with the sound in its message.

        Raises:
            ModelError: there is no such message.
        """
        if not 0 <= self.place < len(items) or not _is_the_users(items[self.place]):
            raise ModelError("no message of the user is there for the task's metadata.audio_data", retryable=False)
        item = items[self.place]
        said = item.get("content")
        said = said if isinstance(said, list) else [{"type": "input_text", "text": said}]
        return (*items[: self.place], {**item, "content": [self.part, *said]}, *items[self.place + 1 :])


def _is_the_users(item: Item) -> bool:
    return item.get("type", "message") == "message" and item.get("role") == "user"
