"""lm-evaluation-harness on the model in memory, with local task files or its own tasks; the extra ``[eval]``.

Knows: how the harness is called and what it leaves behind. Does not know: any task.

The harness puts the model into eval mode for good and draws from the global generators; :func:`undisturbed` puts
modes and random state back, so that it can run in the middle of training. With a folder of task files its own
tasks are not indexed, which takes a minute.
"""

import copy
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.rates import mean_score
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import Interval
from holdfast.evaluation.suites.base import Style, SuiteScore
from holdfast.models import Subject

MISSING = "lm-evaluation-harness is not installed; run `pip install 'holdfast-llm[eval]'`"


@dataclass(frozen=True)
class HarnessSuite:
    """Tasks of the harness.

    Attributes:
        name: used in files and tables.
        tasks: names of tasks or groups.
        folder: of local task files (YAML); None uses the harness's own tasks, whose data come from the hub.
        limit: items a task; None takes all.
        num_fewshot: examples in the prompt; None leaves it to the task.
        style: "chat" applies the chat template.
        max_length: the most tokens to feed; None asks the model.
    """

    name: str
    tasks: tuple[str, ...]
    folder: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    style: Style = "text"
    max_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise UserError(f"suite '{self.name}': no tasks; name at least one")

    def run(self, subject: Subject, seed: int = 0, batch_size: int = 16) -> SuiteScore:
        """Score ``subject``: a measure ``task/metric`` each, with our interval over its items.

        Raises:
            UserError: the harness is not installed, or it knows no such task.
        """
        found = run_harness(
            subject, self.tasks, self.folder, batch_size, self.limit, self.num_fewshot, self.style, self.max_length
        )
        measures, notes = {}, []
        for task, metrics in found["results"].items():
            samples = found["samples"].get(task, [])
            for key, value in metrics.items():
                metric, _, flt = key.partition(",")
                if not isinstance(value, (int, float)) or metric.endswith("_stderr") or not flt:
                    continue
                label = f"{task}/{metric}" + ("" if flt == "none" else f"/{flt}")
                measures[label] = _interval(float(value), _item_values(samples, metric, flt), seed)
                if measures[label].method == NO_ITEMS:
                    notes.append(f"{label}: aggregated by the harness, no interval")
        return SuiteScore(
            self.name, "harness", "lm-evaluation-harness", measures, notes=(f"version {found['version']}", *notes)
        )


NO_ITEMS = "no item values"


def run_harness(
    subject: Subject,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    num_fewshot: int | None = None,
    style: Style = "text",
    max_length: int | None = None,
) -> dict[str, Any]:
    """Call the harness and return its results, samples and version, as it wrote them.

    Raises:
        UserError: the harness is not installed, the folder is missing, or a task is unknown.
    """
    if subject.tokenizer is None:
        raise UserError("the harness needs a tokenizer: give Subject(model, tokenizer)")
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder of task files; check the path")
    lm_eval, wrap, tasks_of = _harness()
    with undisturbed(subject.model):
        manager = tasks_of(include_path=None if folder is None else str(folder), include_defaults=folder is None)
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if unknown:
            where = f"in {folder}" if folder is not None else "of the harness"
            raise UserError(f"no task {', '.join(unknown)} {where}; there are {', '.join(manager.all_tasks[:20])}")
        # A copy, since the wrapper gives a tokenizer without a padding token one.
        tokenizer = copy.deepcopy(subject.tokenizer)
        wrapped = wrap(pretrained=subject.model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
        found = lm_eval.simple_evaluate(
            model=wrapped,
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=0,  # our own intervals: its bootstrap would take longer than the model
            log_samples=True,
            apply_chat_template=style == "chat",
            task_manager=manager,
        )
    if found is None:  # only on the further ranks of a distributed run
        return {"results": {}, "samples": {}, "version": str(lm_eval.__version__)}
    return {
        "results": dict(found["results"]),
        "samples": dict(found.get("samples", {})),
        "version": str(lm_eval.__version__),
    }


def _harness() -> tuple[Any, Any, Any]:
    """The package, its wrapper of a transformers model and its list of tasks. Importing it takes seconds.

    Raises:
        UserError: it is not installed.
    """
    try:
        package, models, tasks = (
            importlib.import_module(name) for name in ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks")
        )
    except ImportError as error:
        raise UserError(f"{MISSING} ({error})") from None
    return package, models.HFLM, tasks.TaskManager


def _item_values(samples: Sequence[Mapping[str, Any]], metric: str, flt: str) -> list[float]:
    """One number an item where the metric has one (a perplexity has a pair: nothing to average)."""
    values = [sample.get(metric) for sample in samples if sample.get("filter", flt) == flt]
    if values and all(isinstance(value, (bool, int, float)) or hasattr(value, "item") for value in values):
        return [float(value) for value in values]  # type: ignore[arg-type]  # checked above
    return []


def _interval(value: float, items: Sequence[float], seed: int) -> Interval:
    """Wilson for rates, bootstrap for other means; the bare value where the items do not average to it."""
    kept = [item for item in items if not math.isnan(item)]
    if not kept or not math.isclose(sum(kept) / len(kept), value, rel_tol=1e-6, abs_tol=1e-9):
        return Interval(value, float("nan"), float("nan"), len(kept), NO_ITEMS)
    return mean_score(kept, seed)
