"""The study of forecasts; goes on where it was stopped and does nothing twice.

    python -m studies.geometry run --out     FOLDER         (the organism)
    python -m studies.geometry rival --out FOLDER           (needs another package: rival.py)
    python -m studies.geometry projections --out FOLDER
    python -m studies.geometry onset --out FOLDER
    python -m studies.geometry collect --out FOLDER
    python -m studies.geometry ship --out FOLDER            (the package's reference runs, anew)
    python -m studies.geometry real --out FOLDER            (SmolLM2's plain fine-tunes of studies.real_model)
    python -m studies.geometry collect-real --out FOLDER

Knows: which fine-tunes there are, the order of things. Does not know: how any of them is done.
"""

import argparse
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from studies.geometry import onset, projections, real, records, rival, summary, tunes
from studies.real_model import lists, model

from holdfast.core.files import write_json

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
REAL_OUTCOMES = HERE.parent / "real_model" / "results.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.geometry", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "verb", choices=["run", "rival", "projections", "onset", "collect", "ship", "real", "collect-real"]
    )
    parser.add_argument("--out", type=Path, required=True, help="one file a fine-tune; may be gone on with")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    gc.freeze()
    if options.verb in ("collect", "ship"):
        rows = summary.joined(tunes.records_of(options.out))
        summary.ship(rows) if options.verb == "ship" else summary.collect(
            rows, _more(options.out), HERE / "results.json"
        )
        return
    if options.verb == "collect-real":
        real.collect(options.out, REAL_OUTCOMES, HERE / "results.json")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.verb == "real":
        real.log.setLevel(logging.INFO)
        real.predict(real.ARMS, model.cache_folder(), lists.data_folder(), options.out)
        return
    if options.verb == "rival":
        for tune in rival.all_of_them():
            log.info("%s: %s", tune.name, rival.run(tune, options.out))
        return
    if options.verb == "onset":
        write_json(options.out / "onset.json", {"runs": onset.organism_runs()})
        return
    if options.verb == "projections":
        for one in projections.all_of_them():
            log.info("%s: %s", one.name, projections.run(one, options.out)["readings"][-1])
        return
    for tune in tunes.all_of_them():
        log.info("%s: %s CPU-s", tune.name, tunes.run(tune, options.out)["cpu_seconds"])


def _more(root: Path) -> dict[str, Any]:
    """Projections and the onset."""
    ways = projections.ratios(projections.records_of(root))
    runs = records.kept(HERE / "onset.jsonl", {"organism": root / "onset.json"})["organism"]["runs"]
    return {"projections": ways, "onset": runs, "claims": projections.claims(ways) + onset.claims(runs)}


if __name__ == "__main__":
    main()
