"""The study of elasticity; goes on where it was stopped and does nothing twice.

    python -m studies.elasticity laboratory --work RUNS                             # the law; false phase changes
    python -m studies.elasticity members --work RUNS [--widths ...] [--seeds ...]   # the organism family
    python -m studies.elasticity coding --work RUNS [--data LISTS]                  # coded and decoded texts
    python -m studies.elasticity real --work RUNS --data LISTS                      # SmolLM2's alignments undone
    python -m studies.elasticity collect --work RUNS

Knows: the order of things and the command line. Does not know: how any of them is done.
"""

import argparse
import logging
from pathlib import Path

import torch
from studies.elasticity import coding, laboratory, members, page, real

from holdfast.core.files import write_json

log = logging.getLogger("studies.elasticity")


def main() -> None:
    """Command line."""
    setting = members.Setting()
    parser = argparse.ArgumentParser(prog="python -m studies.elasticity")
    parser.add_argument("verb", choices=["laboratory", "coding", "members", "real", "collect"])
    parser.add_argument("--work", type=Path, required=True, help="one file a cell; may be gone on with")
    parser.add_argument("--widths", type=int, nargs="*", default=list(setting.widths))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="folder of published texts and lists, for the real model")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("studies").setLevel(logging.INFO)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.verb == "laboratory":
        write_json(options.work / "laboratory.json", laboratory.everything())
    elif options.verb == "coding":
        coding.run(options.work, options.data)
    elif options.verb == "real":
        if options.data is None:
            parser.error("real: give the folder of published lists with --data")
        real.run(real.Setting(), options.work, options.data)
    elif options.verb == "collect":
        page.collect(options.work)
    else:
        for seed in options.seeds:  # outside: a stopped study has every size
            for width in options.widths:
                members.run(setting, width, seed, options.work, log.info)


if __name__ == "__main__":
    main()
