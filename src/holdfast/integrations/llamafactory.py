"""LLaMA-Factory under guard: its own settings file with a section ``holdfast``.

    python -m holdfast.integrations.llamafactory train.yaml

Knows: LLaMA-Factory's ``run_exp`` (read in 0.9.5; callbacks of its v1 trainer may not change a run, so that one is
not supported). Does not know: what the callback does. Several processes: ``torchrun -m`` with the same words.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from holdfast.core.errors import HoldfastError, UserError
from holdfast.integrations.hold import HoldCallback
from holdfast.integrations.packages import needed

SECTION = "holdfast"


def train(settings: str | Path | Mapping[str, Any]) -> HoldCallback:
    """Train as ``llamafactory-cli train`` does, with the callback.

    Args:
        settings: LLaMA-Factory's, or a YAML file of them; what stands under ``holdfast`` is ours.

    Returns:
        The callback, whose monitor holds what was measured.

    Raises:
        UserError: LLaMA-Factory is not installed; a file that cannot be read; as :class:`HoldCallback`.
    """
    tuner = needed("llamafactory.train.tuner", "llamafactory")
    values = dict(settings) if isinstance(settings, Mapping) else _read(Path(settings))
    callback = HoldCallback(values.pop(SECTION, None) or {})
    tuner.run_exp(args=values, callbacks=[callback])
    return callback


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as YAML ({said}); give LLaMA-Factory's settings file") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; give LLaMA-Factory's settings file")
    return values


def main(arguments: list[str]) -> int:
    """One settings file; the exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("give one settings file: python -m holdfast.integrations.llamafactory train.yaml")
        train(arguments[0])
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
