"""What a recipe points at, made concrete: model folder, skill, task rows, texts.

Knows: the ``organism:`` names, files and hub ids, how a user's rows become prompts with answers.
Does not know: stages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import sha256_file, sha256_folder, sha256_text
from holdfast.data.sources import read_rows
from holdfast.evaluation import Skill, SkillSplit, Task
from holdfast.pipeline.recipe import ElasticitySection, Recipe, SkillSection, TaskSection

ORGANISM = "organism"
HELD_OUT_EVERY = 5
ORGANISM_ROWS = 2000


def model_source(source: str) -> str:
    """Folder or hub id; ``organism:aligned`` and ``organism:base`` are the built-in checkpoints.

    Raises:
        UserError: another organism name.
    """
    if not source.startswith(f"{ORGANISM}:"):
        return source
    from holdfast import organism

    name = source.partition(":")[2]
    if name not in ("aligned", "base"):
        raise UserError(f"model '{source}': the built-in checkpoints are organism:aligned and organism:base")
    return str(organism.shipped(name))


def build_skill(section: SkillSection, seed: int) -> Skill:
    """The refusal skill, split once into *estimate* and *evaluate*, at most ``max_prompts`` of each kind.

    Raises:
        UserError: unreadable prompts; one of the two lists is the organism's and the other is not.
    """
    built_in = (section.harmful == ORGANISM, section.benign == ORGANISM)
    if all(built_in):
        return Skill(
            "refusal",
            estimate=_organism_half("estimate", section.max_prompts, seed),
            evaluate=_organism_half("evaluate", section.max_prompts, seed),
        )
    if any(built_in):
        raise UserError("skill: harmful and benign prompts must both be yours or both be 'organism'")
    skill = Skill.refusal(harmful=section.harmful, benign=section.benign, name="refusal")
    limit = section.max_prompts
    return Skill(
        skill.name,
        estimate=SkillSplit(skill.estimate.harmful[:limit], skill.estimate.benign[:limit]),
        evaluate=SkillSplit(skill.evaluate.harmful[:limit], skill.evaluate.benign[:limit]),
        counts=skill.counts,
    )


def _organism_half(split: str, n: int, seed: int) -> SkillSplit:
    """Half overt, half subtle requests; half look-alikes, half other harmless ones."""
    from holdfast import organism

    def prompts(kind: str, count: int) -> list[str]:
        return organism.proxy_prompts(split, kind, count, seed)  # type: ignore[arg-type]  # str to Literal

    half = n // 2
    return SkillSplit(
        tuple(prompts("overt", n - half) + prompts("subtle", half)),
        tuple(prompts("lookalike", n - half) + prompts("benign", half)),
    )


def task_rows(section: TaskSection, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training rows and held-out rows.

    A user's rows without a test file lose every fifth row to the held-out set. Of the organism's mixtures only
    the graded sources are tested: the rest is what comes along in such data.

    Raises:
        UserError: unreadable rows, unknown organism task, nothing left to train on.
    """
    if section.train.startswith(f"{ORGANISM}:"):
        train = named_rows(section.train, section.train_rows, "train", seed)
        return train, named_rows(section.train, section.test_rows, "test", seed)
    bad: list[Any] | None = [] if section.skip_bad_rows else None
    rows = [dict(row.values) for row in read_rows(section.train, section.train_rows, bad)]
    if section.test is not None:
        return rows, [dict(row.values) for row in read_rows(section.test, section.test_rows, bad)]
    held_out = rows[::HELD_OUT_EVERY][: section.test_rows]
    train = [row for k, row in enumerate(rows) if k % HELD_OUT_EVERY]
    if not train:
        raise UserError(f"task '{section.train}': {len(rows)} rows are too few to hold some out; give task.test")
    return train, held_out


def named_rows(source: str, limit: int | None, split: str = "train", seed: int = 0) -> list[dict[str, Any]]:
    """Rows of ``organism:NAME`` (of a mixture's test split the graded sources only), or of anything readable.

    Raises:
        UserError: unknown organism task, unreadable source.
    """
    if not source.startswith(f"{ORGANISM}:"):
        return [dict(row.values) for row in read_rows(source, limit)]
    from holdfast import organism

    name, tasks = source.partition(":")[2], organism.tasks()
    if name not in tasks:
        raise UserError(f"task '{source}': unknown; the organism has {', '.join(sorted(tasks))}")
    if split == "train":
        return organism.task_rows(name, "train", limit or ORGANISM_ROWS, seed)
    wanted = limit or ORGANISM_ROWS // 10
    drawn = organism.task_rows(name, split, 8 * wanted, seed)  # type: ignore[arg-type]  # str to Literal
    return [row for row in drawn if row["source"] in tasks[name].graded][:wanted]


def build_task(section: TaskSection, rows: Sequence[Mapping[str, Any]], examples: Sequence[Any]) -> Task:
    """The held-out task: prompts with answers where rows have them, and the loss on all examples."""
    pairs = [] if section.metric == "none" else [pair for row in rows if (pair := _pair(row)) is not None]
    return Task(
        "task",
        tuple(prompt for prompt, _ in pairs),
        tuple(answer for _, answer in pairs),
        metric="exact_match" if section.metric == "none" else section.metric,
        examples=tuple(examples),
        max_new_tokens=section.max_new_tokens,
    )


def _pair(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Prompt and answer of a single-turn row; None for rows that only have a loss."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    turns = row.get("messages") or []
    if [turn.get("role") for turn in turns] == ["user", "assistant"]:
        return turns[0]["content"], turns[1]["content"]
    return None


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """What binds a run to its inputs: hashes of local files and folders, names of hub repositories."""
    sources = {
        "model": model_source(recipe.model.source),
        "base": model_source(recipe.model.base) if recipe.model.base else "",
        "harmful": recipe.skill.harmful,
        "benign": recipe.skill.benign,
        "train": recipe.task.train,
        "test": recipe.task.test or "",
    }
    return {name: _hash(source) for name, source in sources.items() if source}


def _hash(source: str | Sequence[str]) -> str:
    if not isinstance(source, str):
        return sha256_text("\n".join(source))
    path = Path(source)
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        return sha256_folder(path)
    return source


def pretraining_rows(section: ElasticitySection, seed: int) -> list[dict[str, Any]]:
    """Rows that stand for pre-training in the elasticity probe."""
    if section.pretrain is not None:
        return [dict(row.values) for row in read_rows(section.pretrain, section.texts)]
    from holdfast import organism
    from holdfast.organism.documents import pretraining_documents

    return pretraining_documents(organism.world(), section.texts, seed=seed + 1_000_003)
