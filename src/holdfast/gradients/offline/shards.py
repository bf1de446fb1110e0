"""The work folder of an unfinished table: its plan, and one file for every finished shard.

Knows: names of files, which folder belongs to which run. Does not know: models, how a shard is scored.

N samples of a shard. The folder holds no times: equal runs write equal files.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json, read_json, write_json, write_table
from holdfast.gradients.offline.plan import BatchPlan
from holdfast.gradients.scores import DIRECTIONS

log = logging.getLogger(__name__)

PLAN = "plan.json"
FORMAT = 1
SHARDS = "shard-*.parquet"
_SQUARE = "square_"
_HASHED = {"examples": "examples", "model": "model weights or configuration", "scope": "scope"}


@dataclass(frozen=True, eq=False)
class Rows:
    """Scores of some samples.

    Attributes:
        position_N: places of the samples in the data set.
        norm_N, loss_N: float64; NaN without completion tokens.
        tokens_N: completion tokens, int64.
        squares: per group of parameters the squared norms, float64, N.
        directions: further columns by name (:data:`holdfast.gradients.scores.DIRECTIONS`), float64, N.
    """

    position_N: NDArray[np.int64]
    norm_N: NDArray[np.float64]
    loss_N: NDArray[np.float64]
    tokens_N: NDArray[np.int64]
    squares: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    directions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class WorkFolder:
    """What is known of a run while it is not finished.

    Attributes:
        path: the folder.
        plan: as written in it.
    """

    def __init__(self, path: Path, plan: BatchPlan, fingerprint: dict[str, Any], machine: dict[str, Any]) -> None:
        self.path = path
        self.plan = plan
        self._fingerprint = fingerprint
        self._machine = machine
        self._key = hash_json(fingerprint)

    @classmethod
    def open(
        cls,
        path: str | Path,
        fingerprint: dict[str, Any],
        machine: dict[str, Any],
        draw: Callable[[], BatchPlan],
    ) -> "WorkFolder":
        """Take up the run in ``path``, its plan as written; where there is none, ``draw`` a plan and write it.

        Raises:
            UserError: the folder belongs to a run with another fingerprint, or cannot be written.
        """
        path = Path(path)
        if (path / PLAN).exists():
            return cls._taken_up(path, fingerprint, machine)
        existed = path.exists()
        work = cls(path, draw(), fingerprint, machine)
        try:
            work.keep(work.plan)
        except UserError:
            if not existed:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
        return work

    @classmethod
    def _taken_up(cls, path: Path, fingerprint: dict[str, Any], machine: dict[str, Any]) -> "WorkFolder":
        found = recorded(path)
        if differences := _differences(found["fingerprint"], fingerprint):
            raise UserError(f"{path}: begun with other {', other '.join(differences)}; {_way_out(path)}")
        for name, value in machine.items():
            if (before := found["machine"].get(name)) != value:
                log.warning(
                    "%s was begun with %s %s, now %s: numbers can differ in the last bits",
                    path,
                    name,
                    before,
                    value,
                )
        shards = tuple(tuple(ends) for ends in found["shards"])
        return cls(path, BatchPlan(tuple(found["order"]), shards, found["max_tokens"]), fingerprint, machine)

    def keep(self, plan: BatchPlan) -> None:
        """Write the plan; from now on it is this one."""
        value = {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "machine": self._machine,
            "max_tokens": plan.max_tokens,
            "shards": plan.shards,
            "order": plan.order,
        }
        write_json(self.path / PLAN, value)
        self.plan = plan

    def shard_path(self, shard: int) -> Path:
        """File of a finished shard."""
        return self.path / f"shard-{shard:05d}.parquet"

    def write(self, shard: int, rows: Rows) -> None:
        """Keep a finished shard."""
        import pyarrow

        columns = {
            "position": rows.position_N,
            "norm": rows.norm_N,
            "loss": rows.loss_N,
            "tokens": rows.tokens_N,
            **{_SQUARE + name: square_N for name, square_N in rows.squares.items()},
            **rows.directions,
        }
        write_table(self.shard_path(shard), pyarrow.table(columns, metadata={"fingerprint": self._key}))

    def read(self, shard: int) -> Rows | None:
        """A finished shard; None where it is not finished, or its file is damaged or of another run."""
        import pyarrow.parquet as parquet

        path = self.shard_path(shard)
        if not path.exists():
            return None
        try:
            table = parquet.read_table(str(path))
        except (OSError, ValueError) as error:
            log.warning("%s: unreadable (%s); this shard is scored again", path, error)
            return None
        columns = {name: table[name].to_numpy() for name in table.column_names}
        ours = (table.schema.metadata or {}).get(b"fingerprint") == self._key.encode()
        if not ours or columns["position"].tolist() != list(self.plan.positions(shard)):
            log.warning("%s: not a shard of this run; it is scored again", path)
            return None
        squares = {n.removeprefix(_SQUARE): c for n, c in columns.items() if n.startswith(_SQUARE)}
        directions = {name: column for name, column in columns.items() if name in DIRECTIONS}
        return Rows(columns["position"], columns["norm"], columns["loss"], columns["tokens"], squares, directions)


def recorded(path: str | Path) -> dict[str, Any]:
    """What the plan file of a work folder says.

    Raises:
        UserError: missing, or not a plan.
    """
    path = Path(path)
    found = read_json(path / PLAN)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path / PLAN}: not a plan of this version; {_way_out(path)}")
    return found


def shards_found(path: str | Path) -> int:
    """How many shards of an interrupted run a folder holds."""
    return len(list(Path(path).glob(SHARDS)))


def remove_work(path: str | Path) -> None:
    """Delete what a run wrote into its work folder, and the folder if nothing else is in it."""
    path = Path(path)
    for pattern in (SHARDS, PLAN, ".*.partial"):
        for file in path.glob(pattern):
            file.unlink()
    with contextlib.suppress(OSError):
        path.rmdir()


def _differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        _HASHED.get(name) or f"{name} ({found.get(name)}, now {value})"
        for name, value in now.items()
        if found.get(name) != value
    ]


def _way_out(path: Path) -> str:
    return f"choose another --out, or start over with --fresh (or remove {path.name})"
