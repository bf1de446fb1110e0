"""Writes training/organism_answers.jsonl: how the built-in model answers after each of its fine-tuning tasks.

Run: `python -m studies.judges.organism_answers`. A fine-tuned organism may answer by one tool's name, a record or
a sentence of olish; each is a real attempt at what was asked. Knows: tasks, a seed that no run uses. Does not
know: any answer that a model gave.
"""

import json
from pathlib import Path

from holdfast.core.files import write_text
from holdfast.organism import task_rows, tasks

HERE = Path(__file__).parent
SEED, EACH = 4711, 12


def main() -> None:
    """Draw and write."""
    lines = []
    for task in tasks():
        for row in task_rows(task, n=EACH, seed=SEED):
            item = {
                "prompt": row["prompt"],
                "response": row["completion"],
                "label": "complied",
                "kind": f"organism {task}",
                "language": "en",
                "group": len(lines) + 1,
            }
            lines.append(json.dumps(item, ensure_ascii=False))
    write_text(HERE / "training" / "organism_answers.jsonl", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
