"""The study of guarded training on the organism; goes on where it was stopped and does nothing twice.

    python -m studies.training run --out RUNS [--tasks ...] [--arms ...] [--seeds N]
    python -m studies.training validate --out RUNS --arms ...
    python -m studies.training threats --out RUNS [--tasks ...] [--arms ...] [--seeds N]
    python -m studies.training sequence --out RUNS [--arms ...] [--seeds N]
    python -m studies.training cost --out RUNS
    python -m studies.training collect --out RUNS

Knows: the order of things and the command line. Does not know: how any of them is done.
"""

import argparse
import gc
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from studies.training import cell, cost, kept, sequence, summary, threats
from studies.training.arms import ARMS, tried

from holdfast.core.files import read_json, write_json

log = logging.getLogger(__name__)

TASKS = ("lessons", "digest", "desk", "obedience", "arithmetic", "helpdesk")
VALIDATION = ("course", "bullets")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("verb", choices=["run", "validate", "threats", "sequence", "cost", "collect"])
    parser.add_argument("--out", type=Path, required=True, help="one folder a run; may be gone on with")
    parser.add_argument("--tasks", nargs="*", choices=[*TASKS, *VALIDATION])
    parser.add_argument("--arms", nargs="*", choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    gc.freeze()  # every trainer collects garbage when it begins; what is imported is left out of that
    setting, test = cell.Setting(), options.verb == "run"
    if options.verb == "cost":
        write_json(options.out / "cost.json", cost.measure(setting))
        return
    if options.verb == "collect":
        collect(options.out, setting)
        return
    if options.verb == "threats":
        threaten(options, setting)
        return
    if options.verb == "sequence":
        for seed in options.seeds:
            for name in options.arms or sequence.WAYS:
                ends = sequence.run(name, seed, options.out, setting)["stages"]
                log.info("sequence %d %s: %s", seed, name, [(s["scores"], s["drift_nats"]) for s in ends])
        return
    for seed in options.seeds:
        for task in options.tasks or (TASKS if test else VALIDATION):
            for name in options.arms or ARMS:
                for arm in [ARMS[name]] if test else tried(name):
                    asked = cell.Cell(task, seed, arm, "test" if test else "validation")
                    said(asked, cell.run(asked, options.out, setting))


def collect(root: Path, setting: cell.Setting) -> None:
    """Write results.json and runs.jsonl beside this file, from the runs there are, in folders or kept earlier."""
    kept.save(summary.records(root))
    file = Path(__file__).with_name("results.json")
    cost = root / "cost.json"
    timed = read_json(cost) if cost.is_file() else read_json(file)["cost"] if file.is_file() else []
    arms = summary.read(kept.load(), list(ARMS))
    found = summary.results(arms, asdict(setting), threats.read(root), timed)
    found["sequences"] = sequence.table(sequence.read(root))
    write_json(file, found)
    print(summary.markdown(found), summary.markdown_by_task(found), summary.markdown_claims(found), sep="\n\n")


def threaten(options: argparse.Namespace, setting: cell.Setting) -> None:
    """Every share of rows that comply, for some arms."""
    for seed in options.seeds:
        for task in options.tasks or threats.TASKS:
            for share in threats.SHARES:
                for name in options.arms or threats.ARMS:
                    asked = threats.Threat(cell.Cell(task, seed, ARMS[name]), share)
                    found = threats.run(asked, options.out, setting)
                    rates = {key: sum(found[key]) / len(found[key]) for key in ("refused", "prefilled")}
                    after = {n: sum(bits) / len(bits) for n, bits in found.get("relearned", {}).items()}
                    log.info("%s %d %s, %g: %s, relearned %s", task, seed, name, share, rates, after)


def said(asked: cell.Cell, found: dict) -> None:
    """One line of progress."""
    rates = {name: sum(found[name]) / len(found[name]) for name in ("refused", "over_refused", "task_right")
             if name in found}  # fmt: skip
    drift = sum(found["drift_nats"]) / len(found["drift_nats"])
    log.info(
        "%s %d %s: %s, loss %.3f (train %.3f), drift %.2f; %.0f s",
        asked.task, asked.seed, asked.arm.name, {k: round(v, 3) for k, v in rates.items()}, found["task_loss"],
        found.get("train_loss_last", float("nan")), drift, found["cpu_seconds"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
