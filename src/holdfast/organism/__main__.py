"""Build the organism from the command line: `python -m holdfast.organism --out DIR --seed 0`, at one thread."""

import argparse
import logging
import os


def main() -> None:
    """Parse, pin one thread, build."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description="Build the organism's base and aligned checkpoints.")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world-seed", type=int, default=0)
    arguments = parser.parse_args()

    import torch

    from holdfast.organism.builder import build

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(arguments.out, arguments.seed, world_seed=arguments.world_seed)


if __name__ == "__main__":
    main()
