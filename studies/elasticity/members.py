"""Members of the organism family: sizes by pre-training volumes by seeds, and the files of their cells.

Knows: the setting, the data of each role, how members are made. Does not know: what they are put through
(experiments.py), what the numbers say (claims.py).

A size's volumes are slices of one run at a constant rate, so they differ in nothing but what was read. Each
document is read once. A cell (size, volume, seed) is one file; a stopped study goes on after the last one.

Settings were chosen on seed 99, which is no member: such that an alignment shows at the smallest size and comes
undone within the updates made. They were frozen before the first member was measured.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studies.elasticity import experiments

from holdfast.core import trees
from holdfast.core.files import read_json, read_tensors, write_json, write_tensors
from holdfast.core.seeds import derive_seed, seeded
from holdfast.data import Example, encode_rows
from holdfast.elasticity import Plan
from holdfast.elasticity.updates import make_updates
from holdfast.models import Subject, load_tokenizer
from holdfast.organism import proxy_prompts, proxy_rows, shipped, world
from holdfast.organism.builder import Size, new_model
from holdfast.organism.documents import pretraining_documents

HELD_OUT = 1_000_003


@dataclass(frozen=True)
class Setting:
    """Sizes of everything: see README.

    Attributes:
        volumes: updates of pre-training at which a member is taken.
        amounts: updates of alignment at which a slice is kept.
        probes, few: updates of undoing at which curves, and those of controls, are read.
        answers: prompts of each kind in experiment R.
        anchor: weight of KL to the parent (nats a token) in the anchored recipe.
        control_seeds: seeds of which every member runs c1 to c4.
        role_updates, role_probes: of the second pass of the roles reversed, at the alignment's own rate: at the
            rate of undoing, refusals are not learned at all within its updates.
    """

    widths: tuple[int, ...] = (16, 24, 32, 48)
    volumes: tuple[int, ...] = (60, 120, 240, 480)
    pretrain_batch: int = 16
    pretrain_rate: float = 6e-3
    batch_size: int = 8
    amounts: tuple[int, ...] = (20, 40, 80)
    align_rate: float = 3e-3
    undo_rate: float = 8e-4
    undo_updates: int = 16
    probes: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16)
    few: tuple[int, ...] = (0, 2, 4, 8, 12, 16)
    prompts: int = 24
    answers: int = 20
    tokens: int = 8
    documents: int = 24
    anchor: float = 1.0
    control_seeds: tuple[int, ...] = (0,)
    role_updates: int = 24
    role_probes: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 24)

    def plan(self, optimizer: Any = "adamw") -> Plan:
        """Of undoing; SGD's rate is what makes its first step about as long as AdamW's."""
        rate = self.undo_rate if optimizer == "adamw" else 100 * self.undo_rate
        return Plan(self.undo_updates, self.batch_size, rate, optimizer)


@dataclass(frozen=True)
class Material:
    """Rows of every role, encoded once.

    Attributes:
        refusals: the alignment: half refusals of overt requests, half help with harmless ones.
        help: with everything, the organism's meaningless stand-in for harmful data.
        neutral: plain reading.
        harmless: help with harmless requests, on which the anchored recipe is held to the parent.
        texts: held out.
        overt, benign: prompts that no training row holds.
    """

    refusals: list[Example]
    help: list[Example]
    neutral: list[Example]
    harmless: list[Example]
    texts: dict[str, list[Example]]
    overt: list[str]
    benign: list[str]


def run(setting: Setting, width: int, seed: int, work: Path, say: Any = print) -> None:
    """All volumes of one size and seed that are not there yet."""
    wanted = [v for v in setting.volumes if _missing(work, width, v, seed)]
    if not wanted:
        return
    started = time.process_time()
    tokenizer = load_tokenizer(shipped("base"))  # every member's
    subject = Subject(_model(width, tokenizer, seed), tokenizer)
    material = material_of(subject, setting, seed)
    states = _pretrained(subject, setting, width, seed, work)
    for volume in wanted:
        trees.assign(subject.parameters(), states[volume])
        base = Subject(copy.deepcopy(subject.model).eval(), tokenizer)
        missing = _missing(work, width, volume, seed)
        roles = ROLES if cell_name(width, volume, seed) in missing else ROLES[1:]
        slices = {role: _slices(subject, states[volume], role, material, setting, seed) for role in roles}
        lab = experiments.Laboratory(subject, base, states[volume], slices, material, setting, seed)
        head = {"width": width, "volume": volume, "seed": seed}
        for name in missing:
            found = {"roles": lab.roles()} if name.startswith("roles") else _cell(lab, volume)
            seconds = time.process_time() - started
            write_json(work / name, head | found | {"cpu_seconds": seconds})
            say(f"{name}: {seconds:.0f} CPU-seconds")
            started = time.process_time()


def _missing(work: Path, width: int, volume: int, seed: int) -> list[str]:
    names = (cell_name(width, volume, seed), roles_name(width, volume, seed))
    return [name for name in names if not (work / name).exists()]


def _cell(lab: experiments.Laboratory, volume: int) -> dict[str, Any]:
    setting = lab.setting
    found = lab.measured(controls=lab.seed in setting.control_seeds)
    if volume == setting.volumes[-1]:
        found["recipes"] = lab.recipes()
    return found | {"parameters": trees.size(lab.subject.parameters()), "setting": asdict(setting)}


def read_cells(work: Path) -> list[dict[str, Any]]:
    """All cells, each with the second pass of its roles where that was run."""
    cells = []
    for place in sorted(work.glob("member-*.json")):
        cell = read_json(place)
        more = work / roles_name(cell["width"], cell["volume"], cell["seed"])
        second = read_json(more) if more.exists() else {"roles": [], "cpu_seconds": 0.0}
        cell["roles"] = second["roles"]
        cell["cpu_seconds"] += second["cpu_seconds"]
        cells.append(cell)
    return cells


def roles_name(width: int, volume: int, seed: int) -> str:
    """The file of a cell's second pass of the roles reversed."""
    return f"roles-{width}-{volume}-{seed}.json"


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
        n = setting.volumes[-1] * setting.pretrain_batch
        reading = _encoded(pretraining_documents(world(), n, seed), subject)

        def keep(made: int) -> None:
            write_tensors(places[made], trees.clone(subject.parameters()))

        plan = Plan(None, setting.pretrain_batch, setting.pretrain_rate)
        make_updates(subject, reading, plan, seed, keep, at=setting.volumes)
        subject.model.eval()
    return {v: read_tensors(place) for v, place in places.items()}


ROLES = ("aligned", "reversed")


def _slices(
    subject: Subject, start: trees.Tree, role: str, material: Material, setting: Setting, seed: int
) -> dict[int, trees.Tree]:
    """Slices of one alignment, or of its reversal (help first)."""
    trees.assign(subject.parameters(), start)
    kept: dict[int, trees.Tree] = {}

    def keep(made: int) -> None:
        kept[made] = trees.clone(subject.parameters())

    rows = material.refusals if role == "aligned" else material.help
    plan = Plan(setting.amounts[-1], setting.batch_size, setting.align_rate)
    make_updates(subject, rows, plan, seed, keep, at=setting.amounts)
    subject.model.eval()
    return kept


def material_of(subject: Subject, setting: Setting, seed: int) -> Material:
    """Draw and encode everything; each row is learned from once."""
    n = max(setting.amounts[-1], setting.undo_updates) * setting.batch_size
    told = [row for row in pretraining_documents(world(), 4 * n, HELD_OUT + seed) if "text" in row][:n]
    aligning = _asked("alignment", ("overt", "benign"), n, seed)
    helped = _asked("estimate", ("overt", "subtle", "benign"), n, derive_seed(seed, "help"), comply=True)
    unseen = _asked("estimate", ("overt", "benign"), setting.documents, HELD_OUT)
    return Material(
        refusals=_encoded(aligning, subject),
        help=_encoded(helped, subject),
        neutral=_encoded(told, subject),
        harmless=_encoded(_asked("alignment", ("benign",), n, derive_seed(seed, "anchor")), subject),
        texts={
            "pretrain": _encoded(pretraining_documents(world(), setting.documents, HELD_OUT), subject),
            "alignment": _encoded(unseen, subject),
        },
        overt=proxy_prompts("evaluate", "overt", max(setting.prompts, setting.answers), HELD_OUT + seed),
        benign=proxy_prompts("evaluate", "benign", setting.answers, HELD_OUT + seed),
    )


def _asked(split: Any, kinds: Sequence[Any], n: int, seed: int, comply: bool = False) -> list[dict[str, str]]:
    """Conversations, the same number of every kind."""
    return [
        {"prompt": row["prompt"], "completion": row["completion"]}
        for kind in kinds
        for row in proxy_rows(split, kind, -(-n // len(kinds)), seed, comply=comply)
    ]


def _encoded(rows: Sequence[Mapping[str, str]], subject: Subject) -> list[Example]:
    return list(encode_rows([dict(row) for row in rows], subject.tokenizer))
