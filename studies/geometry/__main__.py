"""The study of forecasts; goes on where it was stopped and does nothing twice.

    python -m studies.geometry run --out     FOLDER         (the organism)
    python -m studies.geometry collect --out FOLDER
    python -m studies.geometry real --out FOLDER            (SmolLM2's plain fine-tunes of studies.real_model)
    python -m studies.geometry collect-real --out FOLDER

Knows: which fine-tunes there are, the order of things. Does not know: how any of them is done.
"""

import argparse
import gc
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from studies.geometry import real, summary, tunes
from studies.real_model import lists, model

from holdfast.core.files import read_json

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
OUTCOMES = HERE.parent / "organism" / "results.json"
REAL_OUTCOMES = HERE.parent / "real_model" / "results.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.geometry", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("verb", choices=["run", "collect", "real", "collect-real"])
    parser.add_argument("--out", type=Path, required=True, help="one file a fine-tune; may be gone on with")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    gc.freeze()
    table = read_json(OUTCOMES)["damage"]
    if options.verb == "collect":
        summary.collect(options.out, table, HERE / "results.json")
        return
    if options.verb == "collect-real":
        real.collect(options.out, REAL_OUTCOMES, HERE / "results.json")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.verb == "real":
        real.log.setLevel(logging.INFO)
        real.predict(real.ARMS, model.cache_folder(), lists.data_folder(), options.out)
        return
    for tune in tunes.all_of_them():
        log.info("%s: %s CPU-s", tune.name, tunes.run(tune, options.out)["cpu_seconds"])


if __name__ == "__main__":
    main()
