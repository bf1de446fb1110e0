"""Texts coded and decoded with models: are bits a token bits, and how long is a text to an aligned model?

Knows: which texts, which models, gzip. Does not know: how coding is done (holdfast.elasticity.codec).
"""

import gzip
import time
from pathlib import Path
from typing import Any

from studies.real_model import model as real

from holdfast.core.errors import UserError
from holdfast.core.files import sha256_text, write_json
from holdfast.elasticity import codec
from holdfast.models import Subject, load
from holdfast.organism import shipped, world
from holdfast.organism.documents import pretraining_documents

ORGANISM_BYTES, REAL_BYTES = 100_000, 20_480
HELD_OUT = 1_000_003  # a seed that no member was trained on
REAL_TEXTS = {"wikitext": "wikitext2/test.txt"}


def organism_text(size: int = ORGANISM_BYTES) -> str:
    """At least ``size`` bytes of what the organism's base model reads, documents it has not seen."""
    told = [row["text"] for row in pretraining_documents(world(), size // 25, HELD_OUT) if "text" in row]
    subject = load(shipped("base"))
    kept: list[str] = []
    length = 0
    for text in told:
        try:
            codec.lossless_ids(subject, text)
        except UserError:
            continue  # its spacing is not the tokenizer's; the codec would refuse it
        kept.append(text)
        length += len(text.encode()) + 1
        if length > size:
            return " ".join(kept)
    raise ValueError(f"only {length} bytes of text; draw more documents")


def real_text(data: Path, name: str, size: int = REAL_BYTES) -> str:
    """The beginning of a published text, whole lines."""
    lines = (data / REAL_TEXTS[name]).read_text(encoding="utf-8").splitlines(keepends=True)
    text = ""
    for line in lines:
        text += line
        if len(text.encode()) >= size:
            return text
    return text


def measure(subject: Subject, text: str, window: int, lanes: int) -> dict[str, Any]:
    """Code ``text``, decode it, and compare its length with what is predicted and with gzip."""
    started = time.process_time()
    ids = codec.lossless_ids(subject, text)
    coded = codec.Coded.from_bytes(codec.encode_text(subject, text, window, lanes).to_bytes())
    same = codec.decode_text(subject, coded) == text
    predicted = codec.predicted_bits(subject, ids, window, batch_size=4)
    return {
        "text_sha256": sha256_text(text),
        "bytes": len(text.encode()),
        "tokens": len(ids),
        "round_trip": same,
        "coded_bytes": len(coded.payload),
        "container_bytes": len(coded.to_bytes()),
        "coded_bits": coded.bits,
        "predicted_bits": predicted,
        "relative_error": coded.bits / predicted - 1,
        "gzip_bytes": len(gzip.compress(text.encode(), 9, mtime=0)),
        "window": window,
        "lanes": lanes,
        "cpu_seconds": time.process_time() - started,
    }


def run(work: Path, data: Path | None) -> None:
    """Everything that is not there yet, one file a text and model."""
    for name in ("base", "aligned"):
        place = work / f"coding-organism-{name}.json"
        if not place.exists():
            found = measure(load(shipped(name)), organism_text(), window=128, lanes=64)
            write_json(place, {"model": f"organism {name}", "text": "organism", **found})
    if data is None:
        return
    for text in REAL_TEXTS:
        for name, read in (("chat", real.chat), ("aligned", real.aligned)):
            place = work / f"coding-{text}-{name}.json"
            if not place.exists():
                found = measure(read(real.cache_folder()), real_text(data, text), window=256, lanes=20)
                write_json(place, {"model": f"SmolLM2 {name}", "text": text, **found})
