"""The study of repairs on the organism; goes on where it was stopped and does nothing twice.

    python -m studies.restoration run --work RUNS [--tasks ...] [--seeds ...]     # two CPU-minutes a cell
    python -m studies.restoration rivals --work RUNS [--tasks ...] [--seeds ...]  # one and a half a cell
    python -m studies.restoration shape --work RUNS [--tasks ...]                 # about one CPU-minute a task
    python -m studies.restoration collect --work RUNS

Knows: the order of things and the command line. Does not know: how any of them is done.
"""

import argparse
import logging
from itertools import product
from pathlib import Path

import torch
from studies.restoration import cell, kept, page, rivals, shape

log = logging.getLogger(__name__)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.restoration")
    parser.add_argument("verb", choices=["run", "rivals", "shape", "collect"])
    parser.add_argument("--work", type=Path, required=True, help="one file a cell; may be gone on with")
    parser.add_argument("--tasks", nargs="*", default=list(cell.TASKS), choices=cell.TASKS)
    parser.add_argument("--weights", nargs="*", default=list(cell.WEIGHTS), choices=cell.WEIGHTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    if options.verb == "collect":
        page.collect(options.work)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    if options.verb == "shape":
        for task in options.tasks:
            if not (options.work / "shape" / f"{task}.json").exists():
                log.info("%s: %s", task, shape.run(task, options.work / "shape"))
        return
    if options.verb == "rivals":
        options.weights = cell.WEIGHTS[:1]
    known = kept.load(kept.RIVALS if options.verb == "rivals" else kept.FILE)
    folder = options.work / "rivals" if options.verb == "rivals" else options.work
    cells = product(options.seeds, options.weights, options.tasks)  # a study that was stopped has every task
    for seed, weights, task in cells:
        name = cell.name_of(task, seed, weights)
        if name in known or (folder / f"{name}.json").exists():
            continue
        if options.verb == "rivals":
            found = rivals.run(task, seed, folder)
        else:
            found = cell.run(task, seed, weights, folder)
        log.info("%s: %s; %.0f s", name, page.line(found), found["cpu_seconds"])


if __name__ == "__main__":
    main()
