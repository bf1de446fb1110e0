"""Packages that an adapter is for, and what to do where one is missing. Does not know: any of them."""

import importlib
from typing import Any

from holdfast.core.errors import UserError


def needed(module: str, install: str) -> Any:
    """The module.

    Args:
        install: what ``pip install`` is to be given.

    Raises:
        UserError: it is not installed, or it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
        said = "is not installed" if absent else f"cannot be imported ({error})"
        raise UserError(f"{package} {said}; run `pip install {install}`") from None
