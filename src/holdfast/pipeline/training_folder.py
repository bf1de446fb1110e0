"""The folder of an unfinished fine-tune: checkpoints of one set of settings, in which a killed run continues.

Knows: names, the manifest, which checkpoint is whole. Does not know: trainers.

While it trains: ``manifest.json`` and ``logs/`` (traces, checkpoints). When it is done: ``adapter/`` and, last,
``training.json``; the checkpoints are gone.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import check_new_folder, check_writable, read_json, write_json
from holdfast.core.version import VERSION
from holdfast.pipeline.folder import MANIFEST, changed_keys

KIND = "holdfast train"
LOGS = "logs"  # selection.jsonl and drift.jsonl, a line as it happens; checkpoints while it trains
RESULT = "training.json"
_CHECKPOINT = "checkpoint-"


class TrainingFolder:
    """A fine-tune on disk.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def logs(self) -> Path:
        """Where the trainer writes."""
        return self.path / LOGS

    @property
    def adapter(self) -> Path:
        """The adapter that came out."""
        return self.path / "adapter"

    def clear_adapter(self) -> None:
        """Make room for it: a kill after it was written and before the result was leaves one behind."""
        shutil.rmtree(self.adapter, ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether the fine-tune is done."""
        return (self.path / RESULT).exists()

    @property
    def continues(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return not self.finished and last_checkpoint(self.logs) is not None

    def begun_with(self, settings: dict[str, Any]) -> bool:
        """Whether the folder was begun with just these."""
        manifest = self.path / MANIFEST
        found = read_json(manifest) if manifest.is_file() else {}
        return found.get("settings") == _plain(settings) and found.get("holdfast") == VERSION

    def open(self, settings: dict[str, Any], fresh: bool = False) -> None:
        """Begin, or take up what was begun with the same settings.

        A folder in which nothing was saved yet is begun anew with whatever settings.

        Raises:
            UserError: something else is in the folder; other settings, with the key that changed.
        """
        settings = _plain(settings)
        manifest = self.path / MANIFEST
        ours = manifest.is_file() and read_json(manifest).get("kind") == KIND
        if not ours:
            check_new_folder(self.path)
        elif fresh:
            shutil.rmtree(self.path)
        elif self.finished or last_checkpoint(self.logs) is not None:
            self._compare(read_json(manifest), settings)
            return
        check_writable(manifest)
        shutil.rmtree(self.logs, ignore_errors=True)
        write_json(manifest, {"kind": KIND, "holdfast": VERSION, "settings": settings})

    def _compare(self, found: dict[str, Any], settings: dict[str, Any]) -> None:
        changes = changed_keys(found["settings"], settings)
        if found["holdfast"] != VERSION:
            changes.append(f"holdfast: {found['holdfast']} → {VERSION}")
        if changes:
            more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
            raise UserError(
                f"{self.path}: begun with other settings: {'; '.join(changes[:3])}{more}; give the same ones to "
                "continue, another folder, or --fresh to delete it"
            )

    def close(self, result: dict[str, Any]) -> None:
        """The fine-tune is done: its result is written, its checkpoints go."""
        for checkpoint in self.logs.glob(f"{_CHECKPOINT}*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        write_json(self.path / RESULT, result)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def last_checkpoint(logs: Path, before: int | None = None) -> Path | None:
    """The latest whole checkpoint; what a kill left half-written is removed.

    Args:
        before: a checkpoint of this step or later does not count: a trainer that resumes at its last step would
            make one more.
    """
    found = []
    for path in logs.glob(f"{_CHECKPOINT}*"):
        number = path.name.removeprefix(_CHECKPOINT)
        if not number.isdigit():
            continue
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # the trainer writes it last
        except (OSError, UnicodeDecodeError, json.JSONDecodeError):
            shutil.rmtree(path, ignore_errors=True)
        else:
            if before is None or int(number) < before:
                found.append((int(number), path))
    return max(found)[1] if found else None
