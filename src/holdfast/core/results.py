"""Results are values: frozen dataclasses that turn into JSON and back, so a report needs no model.

Knows: dataclasses, nested results, tuples, paths.
Does not know: any particular result.
"""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Self

from holdfast.core.files import read_json, write_json


class Result:
    """Mix-in for frozen dataclasses: ``to_dict``, ``from_dict``, ``save``, ``load``."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, nested results included."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # mixed into dataclasses only
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; unknown keys are ignored so that older files stay readable."""
        hints = typing.get_type_hints(cls)
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # see above
        return cls(**{name: _typed(hints[name], value) for name, value in values.items() if name in names})

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls.from_dict(read_json(path))


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _typed(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value)
    if value is None:
        return float("nan") if hint is float else None
    if isinstance(hint, type) and issubclass(hint, Result):
        return hint.from_dict(value)
    if origin is tuple:
        inner = arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
        if inner is not None:
            return tuple(_typed(inner, item) for item in value)
        return tuple(_typed(kind, item) for kind, item in zip(arguments, value, strict=True))
    if origin is list:
        return [_typed(arguments[0], item) for item in value]
    if origin is dict:
        return {key: _typed(arguments[1], item) for key, item in value.items()}
    return value
