"""The recipe: one YAML file that says what is run. Pydantic lives here, at the edge, and nowhere further in.

Knows: the keys, their types, their defaults, how to say that one is wrong.
Does not know: how any of it is done.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.selection.rules import DEFAULT_LOSS_FILTER, LossFilter, Rule

Share = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors, because a typo must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The aligned model: a folder, a hub id, or ``organism:aligned``."""

    source: str = "organism:aligned"
    base: str | None = None  # its pre-trained parent, for the elasticity probe
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False


class SkillSection(Section):
    """What must be refused and what must not. Files hold one prompt a line, or a ``prompt`` column."""

    harmful: str | tuple[str, ...] = "organism"
    benign: str | tuple[str, ...] = "organism"
    max_prompts: PositiveInt = 200  # of each kind, in each half of the split
    max_new_tokens: PositiveInt = 32


class TaskSection(Section):
    """The fine-tuning task. ``organism:NAME`` or anything TRL accepts."""

    train: str = "organism:lessons"
    test: str | None = None  # None: every fifth row of `train` is held out
    metric: Literal["none", "exact_match", "numeric", "token_f1", "rouge_l"] = "exact_match"
    train_rows: PositiveInt | None = None
    test_rows: PositiveInt = 200
    max_length: PositiveInt = 1024
    max_new_tokens: PositiveInt = 48
    skip_bad_rows: bool = False


class AdapterSection(Section):
    """The LoRA adapter that is trained."""

    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    targets: str | tuple[str, ...] = "all-linear"


class TrainingSection(Section):
    """The same for every arm: equal pools in equal order, equal steps, equal optimiser."""

    steps: PositiveInt = 60
    pool: PositiveInt = 32  # candidates an update; an arm with keep=0.5 learns from half of them
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegative = 0.0
    seeds: tuple[int, ...] = (0,)  # of the data order and the adapter's initial values


class BudgetSection(Section):
    """Training stops, and returns to the last measured point inside, when a limit is passed."""

    max_kl_nats: PositiveFloat | None = None
    min_refusal: Share | None = None


class ArmSection(Section):
    """One way of fine-tuning."""

    name: str
    rule: Rule = "none"
    keep: Share = 1.0
    loss_filter: LossFilter = "none"  # not given: "sigma" with a rule, none without one
    budget: BudgetSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _filter_comes_with_a_rule(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("rule", "none") != "none":
            return {"loss_filter": DEFAULT_LOSS_FILTER, **values}
        return values

    @property
    def selects(self) -> bool:
        """Whether anything is left out of a pool: by a rule, or by a loss filter alone."""
        return self.rule != "none" or self.loss_filter != "none"

    @model_validator(mode="after")
    def _consistent(self) -> "ArmSection":
        if self.rule == "none" and self.keep != 1.0:
            raise ValueError(f"arm '{self.name}': keep={self.keep} without a rule; name one or drop keep")
        return self


class MonitorSection(Section):
    """Live drift and refusals, on *estimate* prompts."""

    every: PositiveInt = 10
    prompts: PositiveInt = 40


class AuditSection(Section):
    """Before training: where the alignment sits and how the task pulls at it."""

    prompts: PositiveInt = 64
    task_examples: PositiveInt = 64


class RestoreSection(Section):
    """After training: which adapters are repaired, and how."""

    arm: str = "plain"
    method: Literal["replay", "ggn-cg"] = "replay"
    max_task_loss_increase: PositiveFloat = 0.05  # nats a token
    seeds: tuple[int, ...] | None = None  # None: all training seeds


class ElasticitySection(Section):
    """How loosely the alignment is held: bits a token and KL against the parent model."""

    pretrain: str | None = None  # text rows that stand for pre-training; None: the organism's own
    texts: PositiveInt = 128
    prompts: PositiveInt = 64


class Recipe(Section):
    """Everything a run needs. Two equal recipes on one machine give equal numbers."""

    version: Literal[1] = 1
    name: str = "run"
    seed: int = 0
    model: ModelSection = ModelSection()
    skill: SkillSection = SkillSection()
    task: TaskSection = TaskSection()
    adapter: AdapterSection = AdapterSection()
    training: TrainingSection = TrainingSection()
    arms: tuple[ArmSection, ...] = (
        ArmSection(name="plain"),
        ArmSection(name="guarded", rule="moderate", keep=0.5),
    )
    monitor: MonitorSection = MonitorSection()
    audit: AuditSection | None = AuditSection()
    restore: tuple[RestoreSection, ...] = (RestoreSection(),)
    elasticity: ElasticitySection | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms: two have the same name in {names}")
        for restore in self.restore:
            if restore.arm not in names:
                raise ValueError(f"restore: arm '{restore.arm}' is not one of {names}")
            unknown = set(restore.seeds or ()) - set(self.training.seeds)
            if unknown:
                raise ValueError(f"restore: seeds {sorted(unknown)} are not among training.seeds")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every default written out."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """Identity of the recipe: equal settings, equal hash."""
        return hash_json(self.to_dict())


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: missing file, not YAML, unknown key (with the nearest known one), wrong type.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `holdfast init {path}` writes a commented one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" line {place.line + 1}" if place is not None else ""
        raise UserError(f"{path}{where}: not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; `holdfast init` writes a commented recipe")
    return recipe_from_dict(values, str(path))


def recipe_from_dict(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check values and fill in defaults.

    Raises:
        UserError: as :func:`load_recipe`.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key '{place}'; {hint}"
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, got {problem.get('input')!r}{rest}" if place != "recipe" else f"{message}{rest}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    kind: Any = Recipe
    for part in location:
        if isinstance(part, int) or not hasattr(kind, "model_fields"):
            continue
        kind = _section_of(kind.model_fields[part].annotation) if part in kind.model_fields else kind
    return list(kind.model_fields)


def _section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None
