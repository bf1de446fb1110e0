"""Fine-tunes of the damage table repaired by the library's default, and measured again.

Knows: which adapters, the user's lists, what a repair tells of itself. Does not know: how a repair works, how a
model is measured (damage.py), claims (repaired_table.py).

The aligned model is the chat model with its adapter merged; the fine-tune's adapter switched off is the reference.
"""

import ctypes
import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from studies.real_model import damage, model, tasks
from studies.real_model.defended import given

from holdfast import restore
from holdfast.core.files import new_folder, write_json
from holdfast.data import encode_rows
from holdfast.models import Subject, load_adapter, save_adapter

log = logging.getLogger(__name__)
MINUTES = 15.0
LISTED = 200  # prompts of each kind that the user's lists have


@dataclass(frozen=True)
class Repaired(damage.Arm):
    """A plain run's settings; the repair begins at its adapter."""

    minutes: float = MINUTES

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-repaired-{self.learning_rate:g}-{self.seed}"

    @property
    def plain(self) -> damage.Arm:
        """The run that is repaired, and compared with."""
        return damage.Arm(self.kind, self.learning_rate, self.seed)


LOW, HIGH = damage.RATES
# The first has what the command gives, on two threads; the others less, on one.
ARMS = (Repaired("alpaca", LOW, 0, minutes=20.0), Repaired("sst2", LOW, 0), Repaired("gsm8k", HIGH, 0))


def fit(
    aligned: Subject,
    arm: Repaired,
    setting: damage.Setting,
    found: Sequence[tasks.Row],
    out: Path,
    data: Path,
    cache: Path,
) -> damage.Trained:
    """Repair the plain run's adapter on its own rows, within ``arm.minutes``."""
    folder = _plain(arm, setting, found, cache)
    subject = Subject(load_adapter(aligned.model, folder), aligned.tokenizer, "adapter")
    rows, skill = list(encode_rows(found, aligned.tokenizer, setting.max_length)), given(data, setting, LISTED)
    said: list[str] = []

    def say(words: str) -> None:
        log.info("%s: %s", arm.name, words)
        said.append(words)

    result, seen = measured(
        lambda: restore(subject, skill, rows, minutes=arm.minutes, seed=arm.seed, progress=False, say=say)
    )
    write_json(out / "report.json", result.to_dict())
    result.apply(subject)
    names = ("method", "status", "reason", "chosen_name", "counts", "settings")
    return subject, {"said": said, **{name: getattr(result, name) for name in names}, **seen}


def _plain(arm: Repaired, setting: damage.Setting, found: Sequence[tasks.Row], cache: Path) -> Path:
    """The plain run's adapter; trained again where only its figures are kept (the same to rounding)."""
    folder = damage.run_folder(cache, arm.plain, setting)
    again = cache / "plain" / folder.name
    if not (folder / "adapter").is_dir() and not again.is_dir():
        with new_folder(again) as out, TemporaryDirectory() as scratch:
            subject, _ = damage.train(model.aligned(cache), arm.plain, setting, found, Path(scratch))
            save_adapter(subject.model, out / "adapter")
    return (folder if (folder / "adapter").is_dir() else again) / "adapter"


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What ``work`` gives, its seconds, and the highest memory of the whole process while it ran."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier peak left behind is not this one's
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    seconds = {"repair_wall_seconds": time.monotonic() - wall, "repair_cpu_seconds": time.process_time() - cpu}
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return result, {**{name: round(value, 1) for name, value in seconds.items()}, "repair_peak_bytes": peak}


def run(
    arms: Sequence[Repaired], cache: Path, data: Path, setting: damage.Setting | None = None, **options: Any
) -> list[Path]:
    """Every repair that is not there yet, as :func:`damage.run`."""
    return damage.run(arms, cache, data, setting, fit=partial(fit, data=data, cache=cache), **options)
