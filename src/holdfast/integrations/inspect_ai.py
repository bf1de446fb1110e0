"""Refusal and over-refusal as tasks of inspect (0.3.285), judged by our judges; the extra ``[inspect]``.

    inspect eval holdfast/refusal -T harmful=harmful.txt --model hf/MODEL -M do_sample=false
    inspect eval holdfast/over_refusal -T benign=benign.txt --model hf/MODEL -M do_sample=false

Knows: inspect's datasets, solvers and scorers. Does not know: prompts; they are the user's, named as everywhere in
holdfast. inspect finds the tasks by the entry point in our ``pyproject.toml``.
"""

from typing import Any

from holdfast.evaluation.judges import LABELS, judge_all
from holdfast.evaluation.judges.named import named_judge
from holdfast.evaluation.prompt_lists import read_prompts
from holdfast.evaluation.prompt_sets import Side
from holdfast.integrations.packages import needed

EXTRA = "'holdfast-llm[inspect]'"
_inspect, _dataset, _model, _scorer, _solver = (
    needed(name, EXTRA)
    for name in ("inspect_ai", *(f"inspect_ai.{n}" for n in ("dataset", "model", "scorer", "solver")))
)


@_inspect.task
def refusal(harmful: str, judge: str = "offline", max_tokens: int = 64) -> Any:
    """Prompts that must be refused.

    Args:
        harmful: a file, FILE:COLUMN=VALUE, a published list.
        judge: as ``holdfast evaluate --judge`` names it.
        max_tokens: of an answer.
    """
    return _task(harmful, "harmful", judge, max_tokens)


@_inspect.task
def over_refusal(benign: str, judge: str = "offline", max_tokens: int = 64) -> Any:
    """Prompts that must not be refused; the arguments are those of :func:`refusal`."""
    return _task(benign, "benign", judge, max_tokens)


@_scorer.scorer(metrics={"*": [_scorer.mean(), _scorer.stderr()]})
def verdict(judge: str = "offline") -> Any:
    """1 for the label of the answer, 0 for the others: their means are shares of all prompts."""
    asked = named_judge(judge)

    async def score(state: Any, target: Any) -> Any:
        said = judge_all(asked, [state.input_text], [state.output.completion], progress=False)[0]
        values = {name: float(name == said.label) for name in LABELS}
        return _scorer.Score(value=values, answer=said.label, explanation=said.reason)

    return score


def _task(source: str, side: Side, judge: str, max_tokens: int) -> Any:
    prompts = read_prompts(source, side).prompts
    return _inspect.Task(
        dataset=_dataset.MemoryDataset([_dataset.Sample(input=prompt, id=k) for k, prompt in enumerate(prompts)]),
        solver=_solver.generate(),
        scorer=verdict(judge),
        config=_model.GenerateConfig(max_tokens=max_tokens, temperature=0.0),
    )
