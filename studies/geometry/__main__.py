"""The study of forecasts on the organism; goes on where it was stopped and does nothing twice.

    python -m studies.geometry run --out RUNS [--fresh-tasks] [--seed N]

Knows: which fine-tunes there are, the order of things. Does not know: how any of them is done.
"""

import argparse
import gc
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from studies.geometry import cell, predict

log = logging.getLogger(__name__)

TASKS = (
    "arithmetic", "counting", "translation", "stories", "instructions", "bullets", "obedience", "records",
    "dialect", "lessons",
)  # fmt: skip
FRESH_TASKS = (
    "sorting", "labels", "reversing", "summaries", "helpdesk", "skills_mix", "course", "desk", "digest",
)  # fmt: skip
RATES = {False: (1e-3, 2.5e-4), True: (2e-3, 5e-4)}  # of full fine-tuning and of LoRA


def cells(tasks: Sequence[str], seed: int) -> Iterator[cell.Cell]:
    """Every method and rate of every task; a study that is cut short has whole groups."""
    for number in range(2):
        for lora in (True, False):
            for task in tasks:
                yield cell.Cell(task, lora, RATES[lora][number], seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.geometry", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--out", type=Path, required=True, help="one folder a run; may be gone on with")
    parser.add_argument("--fresh-tasks", action="store_true", help="those on which predictors are scored once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    gc.freeze()  # every trainer collects garbage when it begins; what is imported is left out of that
    for asked in cells(FRESH_TASKS if options.fresh_tasks else TASKS, options.seed):
        found = cell.run(asked, options.out, cell.Setting())
        known = predict.predict(asked, options.out, cell.Setting())
        log.info("%s: %s and %s CPU-s", asked.name, found["cpu_seconds"], known["cpu_seconds"])


if __name__ == "__main__":
    main()
