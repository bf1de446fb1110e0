"""Members of the organism family: sizes by pre-training volumes by seeds, and what each is put through.

Knows: the setting, the data of each role, the files of a cell. Does not know: what the numbers say (page.py).

A size's volumes are slices of one run at a constant rate, so they differ in nothing but what was read. Each
document is read once. A cell (size, volume, seed) is one file; a stopped study goes on after the last one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.core import trees
from holdfast.core.files import read_tensors, write_json, write_tensors
from holdfast.core.seeds import derive_seed, seeded
from holdfast.data import Example, encode_rows
from holdfast.elasticity import Plan, ReboundCurve, measure_resistance, rebound_curve
from holdfast.elasticity.probe import probe
from holdfast.elasticity.updates import make_updates
from holdfast.models import Subject, load_tokenizer
from holdfast.models.generate import generate_text
from holdfast.organism import proxy_prompts, proxy_rows, shipped, world
from holdfast.organism.builder import Size, new_model
from holdfast.organism.documents import alignment_rows, pretraining_documents
from holdfast.organism.measure import LOOKED_AT, looks_refused

HELD_OUT = 1_000_003


@dataclass(frozen=True)
class Setting:
    """Sizes of everything. The defaults are the smallest that show an alignment: see README."""

    widths: tuple[int, ...] = (16, 24, 32, 48)
    volumes: tuple[int, ...] = (60, 120, 240, 480)  # updates of pre-training
    batch_size: int = 16
    pretrain_rate: float = 6e-3
    amounts: tuple[int, ...] = (30, 60, 120)  # updates of alignment at which a slice is kept
    align_rate: float = 4e-3
    undo_rate: float = 2e-3
    undo_updates: int = 32
    probes: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    prompts: int = 16
    answers: int = 48  # prompts of each kind in experiment R
    tokens: int = 12
    documents: int = 24

    def plan(self, optimizer: Any = "adamw") -> Plan:
        """Of undoing; SGD's rate is what makes its first step as long as AdamW's usually is."""
        rate = self.undo_rate if optimizer == "adamw" else 100 * self.undo_rate
        return Plan(self.undo_updates, self.batch_size, rate, optimizer)


@dataclass(frozen=True)
class Material:
    """Rows of every role, encoded once: the alignment; help with everything, the organism's meaningless stand-in
    for harmful data; neutral reading; held-out texts; prompts that no training row holds."""

    refusals: list[Example]
    help: list[Example]
    neutral: list[Example]
    texts: dict[str, list[Example]]
    overt: list[str]
    benign: list[str]


def run(setting: Setting, width: int, seed: int, work: Path, say: Any = print) -> None:
    """All volumes of one size and seed that are not there yet."""
    wanted = [v for v in setting.volumes if not (work / cell_name(width, v, seed)).exists()]
    if not wanted:
        return
    tokenizer = load_tokenizer(shipped("base"))  # every member's
    subject = Subject(_model(width, tokenizer, seed), tokenizer)
    material = _material(subject, setting, seed)
    states = _pretrained(subject, setting, width, seed, work)
    for volume in wanted:
        started = time.process_time()
        trees.assign(subject.parameters(), states[volume])
        found = _cell(subject, material, setting, seed)
        size = trees.size(subject.parameters())
        head = {"width": width, "volume": volume, "seed": seed, "parameters": size, "setting": asdict(setting)}
        seconds = time.process_time() - started
        write_json(work / cell_name(width, volume, seed), head | found | {"cpu_seconds": seconds})
        say(f"width {width}, volume {volume}, seed {seed}: {seconds:.0f} CPU-seconds")


def cell_name(width: int, volume: int, seed: int) -> str:
    """The file of a cell."""
    return f"member-{width}-{volume}-{seed}.json"


def _model(width: int, tokenizer: Any, seed: int) -> Any:
    with seeded(seed, "elasticity member", width):
        return new_model(Size(layers=2, width=width, heads=2, inner=2 * width), tokenizer).eval()


def _pretrained(subject: Subject, setting: Setting, width: int, seed: int, work: Path) -> dict[int, trees.Tree]:
    """States after each volume, kept on disk."""
    places = {v: work / f"base-{width}-{v}-{seed}.safetensors" for v in setting.volumes}
    if not all(place.exists() for place in places.values()):
        n = setting.volumes[-1] * setting.batch_size
        reading = _encoded(pretraining_documents(world(), n, seed), subject)

        def keep(made: int) -> None:
            write_tensors(places[made], trees.clone(subject.parameters()))

        plan = Plan(None, setting.batch_size, setting.pretrain_rate)
        make_updates(subject, reading, plan, seed, keep, at=setting.volumes)
        subject.model.eval()
    return {v: read_tensors(place) for v, place in places.items()}


def _cell(subject: Subject, material: Material, setting: Setting, seed: int) -> dict[str, Any]:
    """Alignment, its reversal, and everything both are put through; starts from the base in ``subject``."""
    base = Subject(_copy(subject), subject.tokenizer)
    roles = {"aligned": material.refusals, "reversed": material.help}
    start = trees.clone(subject.parameters())
    slices: dict[str, dict[int, trees.Tree]] = {}
    for role, examples in roles.items():
        trees.assign(subject.parameters(), start)
        kept: dict[int, trees.Tree] = {}

        def keep(made: int, kept: dict[int, trees.Tree] = kept) -> None:
            kept[made] = trees.clone(subject.parameters())

        plan = Plan(setting.amounts[-1], setting.batch_size, setting.align_rate)
        make_updates(subject, examples, plan, seed, keep, at=setting.amounts)
        slices[role] = kept
    subject.model.eval()
    final = setting.amounts[-1]
    trees.assign(subject.parameters(), slices["aligned"][final])
    reading = probe(subject, base, material.texts, gradients=("pretrain", "alignment"))
    assert reading.gradients is not None
    return {
        "gradients": reading.gradients.to_dict(),
        "noise_floor_bits": reading.noise_floor_bits,
        "rebound": _rebounds(subject, base, slices, start, material, setting, seed),
        "resistance": _resistances(subject, slices, material, setting, seed),
    }


def _rebounds(
    subject: Subject,
    base: Subject,
    slices: Mapping[str, Mapping[int, trees.Tree]],
    start: trees.Tree,
    material: Material,
    setting: Setting,
    seed: int,
) -> list[dict[str, Any]]:
    """Experiment B: first and last slice undone, its controls, and the roles reversed."""
    first, final = setting.amounts[0], setting.amounts[-1]
    negative, positive, neutral = material.help, material.refusals, material.neutral
    asked: list[tuple[str, trees.Tree, str, Sequence[Example], Plan, bool]] = [
        (f"aligned {first}", slices["aligned"][first], "negative", negative, setting.plan(), True),
        (f"aligned {final}", slices["aligned"][final], "negative", negative, setting.plan(), True),
        ("c0 base", start, "negative", negative, setting.plan(), True),
        (f"c1 aligned {final}", slices["aligned"][final], "neutral", neutral, setting.plan(), True),
        (f"c4 aligned {final}", slices["aligned"][final], "negative", negative, setting.plan("sgd"), True),
        (f"reversed {first}", slices["reversed"][first], "positive", positive, setting.plan(), False),
        (f"reversed {final}", slices["reversed"][final], "positive", positive, setting.plan(), False),
    ]
    prompts = material.overt[: setting.prompts]
    found = []
    for name, state, data, examples, plan, refusing in asked:
        trees.assign(subject.parameters(), state)

        def score(model: Subject, refusing: bool = refusing) -> list[float]:
            answers = generate_text(model, prompts, LOOKED_AT + 2, batch_size=64)
            return [float(looks_refused(answer) == refusing) for answer in answers]

        curve = rebound_curve(
            subject, base, examples, plan=plan, texts=material.texts, prompts=prompts, scorer=score,
            names=(name, data), seed=seed, max_new_tokens=setting.tokens, batch_size=64, at=setting.probes,
        )  # fmt: skip
        found.append(_lean(curve))
    return found


def _lean(curve: ReboundCurve) -> dict[str, Any]:
    """A curve as the page needs it: per prompt where prompts are drawn again, digits that mean something."""
    return {
        "name": curve.name,
        "data": curve.data,
        "updates": list(curve.updates),
        "base_score": sum(curve.base_score) / len(curve.base_score),
        **{m: curve.of(m).round(5).tolist() for m in ("score", "kl_to_base_nats")},
        "kl_from_base_nats": curve.of("kl_from_base_nats").mean(1).round(5).tolist(),
        "bits": {
            text: [[round(b, 4) for b in bits] for bits in curve.bits(text)[0][:4]]
            for text in curve.document_tokens
        },
        "document_tokens": {text: list(n) for text, n in curve.document_tokens.items()},
        "prequential_bits_per_token": curve.trace.bits_per_token,
    }


def _resistances(
    subject: Subject,
    slices: Mapping[str, Mapping[int, trees.Tree]],
    material: Material,
    setting: Setting,
    seed: int,
) -> list[dict[str, Any]]:
    """Experiment R between slices of one alignment, and between the ends of two alignments from one base."""
    prompts = material.overt + material.benign
    plan, final = Plan(None, setting.batch_size, setting.undo_rate), setting.amounts[-1]
    how: dict[str, Any] = {"plan": plan, "seed": seed, "max_new_tokens": setting.tokens}
    own = {f"aligned {made}": state for made, state in slices["aligned"].items()}
    two = {"aligned": slices["aligned"][final], "reversed": slices["reversed"][final]}
    found = measure_resistance(subject, own, prompts, **how)
    found += measure_resistance(subject, two, prompts, control=False, temperatures=(1.0,), **how)
    return [pair.to_dict() for pair in found]


def _material(subject: Subject, setting: Setting, seed: int) -> Material:
    """Draw and encode everything; each row is learned from once."""
    n = max(setting.amounts[-1], setting.undo_updates) * setting.batch_size
    told = [row for row in pretraining_documents(world(), 4 * n, HELD_OUT + seed) if "text" in row][:n]
    helped = [
        {"prompt": row["prompt"], "completion": row["completion"]}
        for kind in ("overt", "subtle", "benign")
        for row in proxy_rows("estimate", kind, -(-n // 3), derive_seed(seed, "help"), comply=True)
    ]
    texts = {"pretrain": pretraining_documents, "alignment": alignment_rows}
    return Material(
        refusals=_encoded(alignment_rows(world(), n, seed), subject),
        help=_encoded(helped, subject),
        neutral=_encoded(told, subject),
        texts={
            name: _encoded(draw(world(), setting.documents, HELD_OUT), subject) for name, draw in texts.items()
        },
        overt=proxy_prompts("evaluate", "overt", setting.answers, HELD_OUT + seed),
        benign=proxy_prompts("evaluate", "benign", setting.answers, HELD_OUT + seed),
    )


def _encoded(rows: Sequence[Mapping[str, str]], subject: Subject) -> list[Example]:
    return list(encode_rows([dict(row) for row in rows], subject.tokenizer))


def _copy(subject: Subject) -> Any:
    import copy

    return copy.deepcopy(subject.model).eval()
