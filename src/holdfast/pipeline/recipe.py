"""The recipe: one YAML file that says what is run. Pydantic lives here, at the edge, and nowhere further in.

Knows: the sections (sections.py) and how they must agree.
Does not know: files (recipe_file.py), how any of it is done.
"""

from typing import Any, Literal, TypeVar

from pydantic import ValidationError, model_validator

from holdfast.core.errors import UserError
from holdfast.core.files import hash_json
from holdfast.pipeline.sections import (
    TWINS,
    AdapterSection,
    ArmSection,
    AuditSection,
    BudgetSection,
    ElasticitySection,
    EvaluateSection,
    ModelSection,
    MonitorSection,
    Name,
    RestoreSection,
    Section,
    Seed,
    SkillSection,
    TaskSection,
    TrainingSection,
)

__all__ = [
    "ALIGNED",
    "TWINS",
    "AdapterSection",
    "ArmSection",
    "AuditSection",
    "BudgetSection",
    "ElasticitySection",
    "EvaluateSection",
    "ModelSection",
    "MonitorSection",
    "Recipe",
    "RestoreSection",
    "Section",
    "SkillSection",
    "TaskSection",
    "TrainingSection",
    "section_from",
]

ALIGNED = "aligned"  # what the untouched model is called in tables and folders
Some = TypeVar("Some", bound=Section)


class Recipe(Section):
    """Everything a run needs. Two equal recipes on one machine give equal numbers."""

    version: Literal[1] = 1  # of this format
    name: Name = "run"  # title of the report; default folder `runs/NAME` beside the recipe
    seed: Seed = 0  # everything random is derived from it
    model: ModelSection = ModelSection()  # the aligned model
    skill: SkillSection = SkillSection()  # what must stay refused
    task: TaskSection = TaskSection()  # what is learned
    adapter: AdapterSection = AdapterSection()  # what is trained
    training: TrainingSection = TrainingSection()  # how, the same for every arm
    # ways of fine-tuning, compared side by side
    arms: tuple[ArmSection, ...] = (ArmSection(name="plain"), ArmSection(name="guarded", defence="anchor"))
    monitor: MonitorSection = MonitorSection()  # what is measured while training
    evaluate: EvaluateSection = EvaluateSection()  # what the final cards hold
    audit: AuditSection | None = AuditSection()  # null leaves the stage out
    restore: tuple[RestoreSection, ...] = (RestoreSection(),)  # repairs; [] for none
    elasticity: ElasticitySection | None = None  # without it the stage is left out

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_repair(cls, values: Any) -> Any:
        """Where nobody asked for a repair and no arm is called as the default one's, there is none."""
        arms = values.get("arms") if isinstance(values, dict) and "restore" not in values else None
        if not isinstance(arms, (list, tuple)):
            return values
        names = [arm.get("name") for arm in arms if isinstance(arm, dict)]
        return values if RestoreSection().arm in names else {**values, "restore": ()}

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        names = [arm.name for arm in self.arms]
        if not names or not self.training.seeds:
            raise ValueError("arms and training.seeds: give at least one of each")
        self._distinct()
        for restore in self.restore:
            if restore.arm not in names:
                raise ValueError(f"restore: arm '{restore.arm}' is not one of {names}")
            if unknown := set(restore.seeds or ()) - set(self.training.seeds):
                raise ValueError(f"restore: seeds {sorted(unknown)} are not among training.seeds")
        return self

    def _distinct(self) -> None:
        """Every arm, every repair and every seed of them has a folder of its own, on any file system."""
        seeds = self.training.seeds
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"training.seeds: one stands twice in {list(seeds)}")
        names = [ALIGNED, *(arm.name for arm in self.arms)]
        repairs = [f"{restore.arm}-{restore.method}" for restore in self.restore]
        for name in [*names, *dict.fromkeys(repairs)]:
            same = [other for other in [*names, *dict.fromkeys(repairs)] if other.lower() == name.lower()]
            if len(same) > 1:
                what = f"'{ALIGNED}' is the untouched model" if name == ALIGNED else "upper and lower case are one"
                raise ValueError(f"arms: two have the same name, {' and '.join(map(repr, same))} ({what})")
        cells = [
            (repair, seed)
            for restore, repair in zip(self.restore, repairs, strict=True)
            for seed in (restore.seeds if restore.seeds is not None else seeds)
        ]
        for repair, seed in cells:
            if cells.count((repair, seed)) > 1:
                raise ValueError(f"restore: '{repair}' is asked for twice with seed {seed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every default written out."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """Identity of the recipe: equal settings, equal hash."""
        return hash_json(self.to_dict())


def section_from(kind: type[Some], values: dict[str, Any]) -> Some:
    """A section made of a command line's options, checked as a recipe's is.

    Raises:
        UserError: a value that does not fit, by the name of its option.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        names = [part for part in problem["loc"] if isinstance(part, str) and part.isidentifier()]
        option = "".join(f"--{name}: " for name in names[-1:]).replace("_", "-")
        option = option.replace("--weight:", "--defence-weight:")
        given = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
        raise UserError(f"{option}{problem['msg'].removeprefix('Value error, ')}{given}") from None
