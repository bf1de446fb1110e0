"""Everything a run reads, read once and checked before any weights are loaded.

Knows: prompts, task rows and the tokenizer a recipe names; what must be said of them. Does not know: stages,
weights.
"""

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data import Examples, depends_on_date
from holdfast.data.sources import Row
from holdfast.evaluation import Skill, Task
from holdfast.evaluation.prompt_lists import read_prompts
from holdfast.evaluation.tasks import NO_METRIC
from holdfast.models import load_skeleton, load_tokenizer
from holdfast.models.adapters import checked_targets
from holdfast.models.loading import check_device
from holdfast.pipeline.defended import holds_further
from holdfast.pipeline.inputs import (
    HELD_OUT_EVERY,
    ORGANISM,
    Reading,
    TaskRows,
    base_of,
    data_notes,
    is_organism,
    model_source,
    pin,
    pretraining_rows,
    question_and_answer,
    read_named,
    with_text_answers,
)
from holdfast.pipeline.measures import Asked, read_asked
from holdfast.pipeline.prompts import build_skill, prompts_for
from holdfast.pipeline.recipe import AdapterSection, ModelSection, Recipe, TaskSection
from holdfast.pipeline.training_run import check_settings
from holdfast.restoration import check_enough

log = logging.getLogger(__name__)
DEFAULT_TASK = f"{ORGANISM}:lessons"


@dataclass(frozen=True)
class RunInputs:
    """What a run reads.

    Attributes:
        further: prompts that defences hold beside the skill's.
        train, test: rows with their places in the user's files.
        examples: the same rows as examples, by "train" and "test".
        asked: what the final cards shall hold besides.
        today: the date that the chat template writes in this run, if it writes one.
        notes: what must be said before anything runs.
    """

    skill: Skill
    further: tuple[str, ...]
    train: TaskRows
    test: TaskRows
    examples: Mapping[str, Examples]
    asked: Asked
    today: str | None
    notes: tuple[str, ...]

    def usable(self, name: str) -> list[Row]:
        """Rows of "train" or "test" that became examples, with their places in the user's files."""
        bad = {row.where for row in self.examples[name].bad_rows}
        return [row for row in getattr(self, name).rows if row.where not in bad]

    def counts(self) -> dict[str, dict[str, Any]]:
        """What became of the rows, by "train" and "test"."""
        return {
            name: {
                "examples": len(found),
                "bad_rows": [f"{bad.where}: {bad.reason}" for bad in found.bad_rows],
                "truncated": len(found.truncated),
                "dropped": len(found.dropped),
                "recognised": found.recognised,
                "notes": list(found.notes),
                "rendering": found.rendering_hash,
            }
            for name, found in self.examples.items()
        }


def read_inputs(recipe: Recipe) -> RunInputs:
    """Read prompts, rows and tokenizer; nothing here needs the model's weights.

    Raises:
        UserError: whatever is wrong with them, named by the user's file and line.
    """
    source, task = recipe.model.source, with_train(recipe.task, recipe.model.source)
    check_settings(recipe.training, recipe.adapter, source, recipe.arms)
    check_targets(recipe)
    section, notes = prompts_for(recipe.skill, source)
    skill, further = build_skill(section, recipe.seed), held_beside(recipe)
    asked = read_asked(recipe.evaluate)
    if recipe.elasticity is not None:
        base_of(recipe)
        pretraining_rows(recipe.elasticity, recipe.seed)
    train, test = task_rows(task, recipe.seed)
    tokenizer, today = tokenizer_of(recipe.model)
    if today != recipe.model.today:
        notes.append(f"the chat template writes a date; this run keeps to {today} (pin it: model.today)")
    examples = {"train": train.encode(tokenizer), "test": test.encode(tokenizer)}
    if recipe.restore:
        check_enough(skill.estimate, len(examples["train"]))
    notes += [note for name in (task.train, task.test) for note in data_notes(name, source)]
    found = RunInputs(skill, further, train, test, examples, asked, today, tuple(dict.fromkeys(notes)))
    build_task(task, found.usable("test"), examples["test"])  # no answers: told now, not after training
    return found


def held_beside(recipe: Recipe) -> tuple[str, ...]:
    """The prompts of ``skill.hold``, each once.

    Raises:
        UserError: unreadable, or no arm has a defence that holds any.
    """
    if recipe.skill.hold is None:
        return ()
    holding = [arm.defence for arm in recipe.arms if arm.prompts == "skill" and holds_further(arm.defence)]
    if not holding:
        raise UserError("skill.hold: no arm has a defence that holds further prompts; give one the anchor")
    return tuple(dict.fromkeys(read_prompts(recipe.skill.hold, "benign").prompts))


def check_targets(recipe: Recipe) -> None:
    """Layers that the recipe names are layers of its model; none are named by default.

    Raises:
        UserError: a name that no layer has.
    """
    section, targets = recipe.model, recipe.adapter.targets
    if targets == AdapterSection().targets:
        return
    skeleton = load_skeleton(model_source(section.source), section.revision, section.trust_remote_code)
    if skeleton is not None:
        checked_targets(skeleton, targets if isinstance(targets, str) else list(targets))


def tokenizer_of(section: ModelSection) -> tuple[Any, str | None]:
    """The tokenizer of a recipe's model, its chat template pinned, and the date it is pinned to.

    A template that writes the date is pinned to today's if the recipe says nothing: one run, one text, even over
    midnight.
    """
    check_device(section.device)
    tokenizer = load_tokenizer(model_source(section.source), section.revision, section.trust_remote_code)
    today = section.today
    if today is None and depends_on_date(tokenizer):
        today = datetime.date.today().isoformat()
    return pin(tokenizer, today, section.chat_template_kwargs), today


def with_train(section: TaskSection, model: str) -> TaskSection:
    """The section with its training rows named.

    Raises:
        UserError: none are named, and the model is not the built-in one.
    """
    if section.train is not None:
        return section
    if not is_organism(model):
        raise UserError(f"{model}: no rows to learn from; name a file or a hub id at task.train")
    return section.model_copy(update={"train": DEFAULT_TASK})


def task_rows(section: TaskSection, seed: int) -> tuple[TaskRows, TaskRows]:
    """Training rows and held-out rows.

    A user's rows without a test file lose every fifth row to the held-out set, ``test_rows`` of them at most. Of
    the organism's mixtures only the graded sources are tested: the rest is what comes along in such data.

    Raises:
        UserError: unreadable rows, unknown organism task, nothing left to train on.
    """
    assert section.train is not None, "with_train comes first"

    def how(limit: int | None) -> Reading:
        columns = section.prompt_column, section.completion_column
        return Reading(limit, section.max_length, section.skip_bad_rows, *columns, section.truncation_mode)

    train = read_named(section.train, how(section.train_rows), "train", seed)
    if section.test is None and not section.train.startswith(f"{ORGANISM}:"):
        held_out = range(0, len(train.rows), HELD_OUT_EVERY)[: section.test_rows]
        kept = [row for k, row in enumerate(train.rows) if k not in held_out]
        if not kept:
            raise UserError(
                f"{section.train}: {len(train.rows)} rows are too few to hold some out; give task.test"
            )
        test = replace(train, rows=tuple(train.rows[k] for k in held_out), bad=(), notes=())
        return replace(train, rows=tuple(kept)), with_text_answers(test)
    source = section.test if section.test is not None else section.train
    return train, read_named(source, how(section.test_rows), "test", seed)


def build_task(section: TaskSection, rows: Sequence[Row], examples: Sequence[Any]) -> Task:
    """The held-out task of a recipe: prompts with answers, and the loss on all examples.

    Raises:
        UserError: a metric is asked for, and no row has one prompt and one answer.
    """
    source = section.test or section.train or DEFAULT_TASK
    task = task_of(source, rows, section, section.metric, section.max_new_tokens)
    return replace(task, examples=tuple(examples))


def task_of(source: str, rows: Sequence[Row], how: Any, metric: str, max_new_tokens: int) -> Task:
    """Held-out rows as a task: the turn that a row ends on is the answer, what comes before is asked.

    Rows without an answer have only a loss, and are counted in the log.

    Raises:
        UserError: an answer that no text can be compared with, by the user's file and line; a metric, and no row
            with an answer.
    """
    scored = rows if metric != NO_METRIC else ()
    pairs = [pair for row in scored if (pair := question_and_answer(row, how, metric)) is not None]
    if scored and not pairs:
        raise UserError(
            f"{source}: metric '{metric}' needs rows with a prompt and an answer, and none has both; give rows "
            "that have, or measure only the loss (metric: none)"
        )
    if len(pairs) < len(scored):
        log.warning(
            "%s: %d of %d rows have no answer and are not scored", source, len(scored) - len(pairs), len(scored)
        )
    prompts, answers = tuple(prompt for prompt, _ in pairs), tuple(answer for _, answer in pairs)
    return Task("task", prompts, answers, metric=metric, max_new_tokens=max_new_tokens)
