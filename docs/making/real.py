"""Run the blocks marked `<!-- real -->` on a real model: hours on a CPU, so one asks for it.

    MODEL=FOLDER HOLDFAST_PROMPTS=FOLDER python -m docs.making.real [PAGE ...]

`my-model` on a page is then MODEL (default: where studies/real_model has its chat model), and the rows are a few
questions and answers. A block that ends otherwise than its page says stops it.

Knows: where a reader's files come from. Does not know: how a block is run (blocks.py).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from docs.making import blocks

ROWS = (
    ("What is the capital of Norway?", "Oslo."),
    ("Name a colour of the rainbow.", "Green."),
    ("How many legs has a spider?", "Eight."),
    ("What do bees make?", "Honey."),
    ("What is twelve minus five?", "Seven."),
    ("Which planet is nearest to the sun?", "Mercury."),
    ("What is frozen water called?", "Ice."),
    ("In which month is New Year's Day?", "January."),
)


def main(wanted: list[str]) -> None:
    """Run the marked blocks of all pages, or of those named."""
    model = Path(os.environ.get("MODEL", Path.home() / ".cache/holdfast/real_model/chat")).expanduser().resolve()
    if not (model / "config.json").is_file():
        sys.exit(f"{model}: no model; set MODEL to the folder of a chat model")
    if not os.environ.get("HOLDFAST_PROMPTS"):
        sys.exit("HOLDFAST_PROMPTS: not set; set it to the folder with the published prompt lists")
    os.environ["HOLDFAST_PROMPTS"] = str(Path(os.environ["HOLDFAST_PROMPTS"]).resolve())
    found = 0
    for page in blocks.pages():
        if wanted and page.relative_to(blocks.ROOT).as_posix() not in wanted:
            continue
        marked = [block for block in blocks.blocks(page) if block.mark == "real"]
        if not marked:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            Path("my-model").symlink_to(model)
            lines = ["prompt,completion", *(f"{prompt},{completion}" for prompt, completion in ROWS)]
            Path("train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            for block in marked:
                began = time.monotonic()
                print(f"{block.where}\n{block.text}{blocks.run(block, short=False)}", flush=True)
                print(f"[{block.where}: {time.monotonic() - began:.0f} s]", flush=True)
            os.chdir(blocks.ROOT)
        found += len(marked)
    print(f"{found} blocks ran as their pages say")


if __name__ == "__main__":
    main(sys.argv[1:])
