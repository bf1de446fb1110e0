"""What a saved card records of its making, for the evidence of a gate.

Knows: which files and settings an evaluation depended on. Does not know: what was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.core.files import sha256_file
from holdfast.gating.binding import PROVENANCE_FILE, Bound, Provenance, bound_files, code_version
from holdfast.models import Subject
from holdfast.pipeline.folder import MANIFEST, environment
from holdfast.pipeline.inputs import content_hash, model_source

__all__ = ["PROVENANCE_FILE", "provenance"]


def provenance(
    subject: Subject,
    model: str,
    adapter: Path | None,
    against: str | None,
    sources: Mapping[str, str | None],
    batch_size: int,
) -> Provenance:
    """Files by hash, and what the numbers depend on. Reads every weight file once.

    Args:
        model, adapter, against: as they were named; ``against`` None is no other model.
        sources: what was read, by option; files by hash, anything else by name.
    """
    data = {name: content_hash(source) for name, source in sources.items() if source}
    if adapter is not None and (manifest := adapter.parent / MANIFEST).is_file():
        data["training_manifest"] = sha256_file(manifest)  # of the fine-tune that made it: rows, settings, seeds
    weight = next(subject.model.parameters())
    return Provenance(
        adapter=bound_files(adapter) if adapter is not None else None,
        base=_model(model, subject),
        reference=_model(against, subject if against == model else None) if against is not None else None,
        data=data or None,
        code=code_version(),
        numerics=numerics(weight.dtype, weight.device, batch_size),
    )


def _model(name: str, subject: Subject | None) -> Bound:
    config: Any = getattr(subject.model, "config", None) if subject is not None else None
    return bound_files(model_source(name), getattr(config, "_commit_hash", None))


def numerics(dtype: Any, device: Any, batch_size: int) -> dict[str, Any]:
    """What moves numbers in their last bits."""
    return {"dtype": str(dtype), "on": str(device), "batch_size": batch_size, **environment()}
