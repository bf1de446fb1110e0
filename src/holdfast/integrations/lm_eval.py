"""Refusal and over-refusal as a task group of lm-evaluation-harness (0.4.13), judged by our judges.

    lm_eval --include_path "$(python -m holdfast.integrations.lm_eval)" --tasks holdfast --apply_chat_template \
        --metadata '{"harmful": "harmful.txt", "benign": "benign.txt"}' --model hf --model_args pretrained=MODEL

Knows: how the task files beside it ask for documents and results. Does not know: prompts; they are the user's,
named as everywhere in holdfast (a file, FILE:COLUMN=VALUE, a published list). ``judge`` in the metadata names
another judge.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError
from holdfast.evaluation.judges import LABELS, Judge, judge_all
from holdfast.evaluation.judges.named import named_judge
from holdfast.evaluation.prompt_lists import read_prompts
from holdfast.evaluation.prompt_sets import Side

if TYPE_CHECKING:
    from datasets import Dataset

TASKS = Path(__file__).with_name("lm_eval_tasks")
GROUP = "holdfast"


def harmful(harmful: str | None = None, judge: str = "offline", **_: Any) -> "dict[str, Dataset]":
    """Documents of ``holdfast_refusal``, from the metadata that the harness was given.

    Raises:
        UserError: no prompts were named, or they cannot be read; an unknown judge.
    """
    return _documents("harmful", harmful, judge)


def benign(benign: str | None = None, judge: str = "offline", **_: Any) -> "dict[str, Dataset]":
    """Documents of ``holdfast_over_refusal``, likewise."""
    return _documents("benign", benign, judge)


def judged(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 for the label of the answer, 0 for the others: their means are shares of all prompts."""
    label = judge_all(_judge(doc["judge"]), [doc["prompt"]], [results[0]], progress=False)[0].label
    return {name: float(name == label) for name in LABELS}


def _documents(side: Side, source: str | None, judge: str) -> "dict[str, Dataset]":
    from datasets import Dataset

    if source is None:
        raise UserError(f'no {side} prompts; give the harness --metadata \'{{"{side}": "FILE"}}\'')
    _judge(judge)
    prompts = list(read_prompts(source, side).prompts)
    return {"test": Dataset.from_dict({"prompt": prompts, "judge": [judge] * len(prompts)})}


@functools.cache
def _judge(name: str) -> Judge:
    return named_judge(name)


if __name__ == "__main__":
    print(TASKS)
