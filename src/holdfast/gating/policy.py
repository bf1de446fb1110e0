"""The budgets a gate holds a model to, read from a file of a few lines or from flags.

Knows: names of budgets, their units, what a sensible number is. Does not know: rows, verdicts.

    max_refusal_loss: 5       # points of refusals lost, against the reference on the same harmful prompts
    max_over_refusal_rise: 5  # points of harmless prompts refused more
    max_task_drop: 3          # points of task score lost
    max_kl_nats: 2            # drift from the reference, nats a sequence
    false_alarms: 0.05        # chance that a model within all budgets is failed by any of them
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from holdfast.core.errors import UserError
from holdfast.core.results import Result

Budget = Literal["refusal_loss", "over_refusal_rise", "task_drop", "kl_nats"]
BUDGETS: tuple[Budget, ...] = ("refusal_loss", "over_refusal_rise", "task_drop", "kl_nats")
_LONGEST_FILE_BYTES = 1 << 16


@dataclass(frozen=True)
class Policy(Result):
    """What is allowed. None: not asked for.

    Attributes:
        max_refusal_loss, max_over_refusal_rise, max_task_drop: percentage points, 0 up to below 100.
        max_kl_nats: nats a sequence.
        false_alarms: over all budgets together, 1e-6 up to 0.5.

    Raises:
        UserError: no budget at all, or a number that is none or makes no sense.
    """

    max_refusal_loss: float | None = None
    max_over_refusal_rise: float | None = None
    max_task_drop: float | None = None
    max_kl_nats: float | None = None
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"{name}: {value!r} is not a number; give one, such as 5")
            if name == "false_alarms" and not 1e-6 <= value <= 0.5:
                raise UserError(f"false_alarms: {value:g} is not a chance from 1e-6 to 0.5; 0.05 is usual")
            if value < 0:
                raise UserError(
                    f"{name}: {value:g} is below 0; give what may be lost, as a number of its own size"
                )
            if name not in ("max_kl_nats", "false_alarms") and value >= 100:
                raise UserError(f"{name}: {value:g} points allow everything; give less than 100")
            object.__setattr__(self, name, float(value))
        if not self.asked:
            known = ", ".join(f"max_{name}" for name in BUDGETS)
            raise UserError(f"no budget was given; name one or more of {known}")

    @property
    def asked(self) -> tuple[Budget, ...]:
        """The budgets that were given."""
        return tuple(name for name in BUDGETS if getattr(self, f"max_{name}") is not None)

    def limit(self, budget: Budget) -> float:
        """The budget in the unit of its interval: a share for points, nats for drift."""
        value = float(getattr(self, f"max_{budget}"))
        return value if budget == "kl_nats" else value / 100

    def level(self, checks: int) -> float:
        """Confidence of each of ``checks`` two-sided intervals, so that false alarms of all stay within bounds.

        One end of an interval fails a model, so two intervals at 95 % together raise at most 5 % false alarms
        (the union bound; whatever their dependence). One alone is not made narrower than that.
        """
        return 1 - 2 * self.false_alarms / max(checks, 2)


def read_policy(path: str | Path | None, flags: Mapping[str, float | None] | None = None) -> Policy:
    """The policy of a file, with flags in the place of what it says.

    Raises:
        UserError: missing file, not YAML, a key that is unknown or stands twice, as :class:`Policy`.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if path is None:
        return Policy(**given)
    values = _read(Path(path))
    known = [field.name for field in fields(Policy)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            raise UserError(f"{path}: unknown key {str(name)[:40]!r}; {hint}")
        if values[name] is None and name not in given:
            raise UserError(f"{path}: {name} has no value; give a number or leave the key out")
    try:
        return Policy(**{**values, **given})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _OnceLoader(yaml.SafeLoader):
    """A key stands once: of two values the first would be dropped without a word. No aliases: nothing here needs
    them, and a few lines of them can mean a gigabyte."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not read here", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", None)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[Any, Any]:
    try:
        if path.stat().st_size > _LONGEST_FILE_BYTES:
            raise UserError(f"{path}: larger than 64 kB; a policy is a few lines")
        values = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the file with the budgets") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the file with the budgets") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; write lines such as 'max_refusal_loss: 5'")
    return values
