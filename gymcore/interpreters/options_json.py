"""
The options of a plugin as plain JSON values and back, for the process that plays it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from gymcore.documents import encode_json
from gymcore.interfaces import Config

__all__ = ["DescribedConfig", "config_from_json", "config_to_json", "holds_secret"]


class DescribedConfig(Config):
    """
    The options of a plugin whose class is not imported here: checked where it is, and known here as plain values.

    One that holds a secret at any depth is a secret here as a whole.
    """

    _written: Any = None
    _differing: Any = None

    def model_dump(self, **how: Any) -> dict[str, Any]:  # as of BaseModel
        """Return what differs from the defaults, without secrets."""
        return dict(self._differing)


def config_to_json(config: Config) -> Any:
    """
    Write the options of a plugin, secrets included: they go through a pair of sockets or pipes and nowhere else.

    Raises:
        ValueError: they cannot be read back equal.
    """
    if isinstance(config, DescribedConfig):
        return config._written
    value = to_jsonable_python(_revealed(config.model_dump(by_alias=True, round_trip=True)))
    if config_from_json(type(config), value) != config:
        raise ValueError(f"the options of {type(config).__name__} do not survive being written as JSON")
    return value


def config_from_json(model: type[Config], value: Any) -> Config:
    """Read the options of a plugin back."""
    # As JSON, which may hold what Python values may not: a tuple is a list there, also to a strict model.
    return model.model_validate_json(encode_json(value))


def holds_secret(annotation: Any, above: tuple[Any, ...] = ()) -> bool:
    """Whether a type is a secret, or holds one at any depth."""
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, Secret | SecretStr | SecretBytes):
        return True
    inner = list(typing.get_args(annotation))
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in above:
        inner.extend(field.annotation for field in kind.model_fields.values())
    return any(holds_secret(item, (*above, kind)) for item in inner)


def _revealed(value: Any) -> Any:
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return _revealed(value.get_secret_value())
    if isinstance(value, Mapping):
        return {key: _revealed(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_revealed(item) for item in value]
    return value
