"""The recipe: one YAML file that says what is run. Pydantic lives here, at the edge, and nowhere further in.

Knows: the keys, their types, their defaults.
Does not know: files (recipe_file.py), how any of it is done.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from holdfast.core.files import hash_json
from holdfast.defences.registry import check_name
from holdfast.pipeline.recipe_section import Name, NonNegative, PositiveFloat, Section, Seed, Share
from holdfast.selection.rules import DEFAULT_LOSS_FILTER, LossFilter, Rule, check_options

ALIGNED = "aligned"  # what the untouched model is called in tables and folders


class ModelSection(Section):
    """The aligned model: a folder, a hub id, or ``organism:aligned``."""

    source: str = "organism:aligned"
    base: str | None = None  # its pre-trained parent, for the elasticity probe
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    today: str | None = None  # date for chat templates that write one
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)  # such as enable_thinking: false


class SkillSection(Section):
    """What must be refused and what must not. Files hold one prompt a line, or a ``prompt`` column."""

    harmful: str | tuple[str, ...] | None = None  # None: the organism's own, for the organism only
    benign: str | tuple[str, ...] | None = None
    hold: str | tuple[str, ...] | None = None  # further prompts whose answers defences hold, refused or not
    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the prompts that goes to *estimate*
    salt: str = "holdfast"  # of the split
    max_prompts: PositiveInt | None = 200  # of each kind, in each half of the split
    max_new_tokens: PositiveInt = 32


class TaskSection(Section):
    """The fine-tuning task. ``organism:NAME`` or anything TRL accepts."""

    train: str | None = None  # None: organism:lessons, for the organism only
    test: str | None = None  # None: every fifth row of `train` is held out
    metric: Literal["none", "exact_match", "numeric", "token_f1", "rouge_l"] = "exact_match"
    train_rows: PositiveInt | None = None
    scored_rows: PositiveInt | None = 512  # whose gradient norms the report shows; null: all
    test_rows: PositiveInt = 200
    max_length: PositiveInt = 1024
    max_new_tokens: PositiveInt = 48
    skip_bad_rows: bool = False
    prompt_column: str | None = None  # of rows that name their columns otherwise
    completion_column: str | None = None
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"  # the end of a long row that stays


class AdapterSection(Section):
    """The LoRA adapter that is trained."""

    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    targets: str | tuple[str, ...] = "all-linear"
    quantize: Literal["4bit", "8bit"] | None = None  # of the model below it (QLoRA); needs bitsandbytes


class TrainingSection(Section):
    """The same for every arm: equal pools in equal order, equal steps, equal optimiser.

    None is chosen by the model (``training_run.definite``): the field's values, or for the organism its own.
    """

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None  # instead of steps
    pool: PositiveInt = 32  # candidates an update; an arm with keep=0.5 learns from half of them
    micro_batch: PositiveInt | Literal["auto"] = "auto"  # rows in memory at once; changes nothing else
    learning_rate: PositiveFloat | None = None
    schedule: str | None = None  # TRL's lr_scheduler_type
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of the steps
    weight_decay: NonNegative | None = None
    checkpoint_every: PositiveInt | None = None  # steps; None: as often as drift is measured
    trl: dict[str, Any] = Field(default_factory=dict)  # any further argument of TRL's SFTConfig
    seeds: tuple[Seed, ...] = (0,)  # of the data order and the adapter's initial values

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingSection":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both given; leave one out")
        from holdfast.training.options import checked_trl

        # A frozen section is filled in here once; every later reader sees checked values.
        object.__setattr__(self, "trl", checked_trl(self.trl))
        for theirs, ours in TWINS.items():
            if theirs in self.trl and ours in self.model_fields_set and getattr(self, ours) is not None:
                raise ValueError(f"{ours} is given twice, here and as trl.{theirs}; leave one out")
        return self


# Arguments of SFTConfig that a recipe has its own word for.
TWINS = {
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
}


class BudgetSection(Section):
    """Training stops, and returns to the last measured point inside, when a limit is passed."""

    max_kl_nats: PositiveFloat | None = None
    min_refusal: Share | None = None
    max_over_refusal: Share | None = None
    max_task_loss: PositiveFloat | None = None  # nats a token, on held-out rows


class ArmSection(Section):
    """One way of fine-tuning."""

    name: Name
    rule: Rule = "none"
    keep: Share = 1.0
    low: Annotated[float, Field(ge=0, lt=1)] | None = (
        None  # of the rule band: the share below it; None: the middle
    )
    loss_filter: LossFilter = "none"  # not given: "sigma" with a rule, none without one
    budget: BudgetSection | None = None
    defence: str | None = None  # by name, beside the rule: anchor, or one that another package brings
    weight: PositiveFloat | None = None  # its one main setting; not given: steered to hold budget.max_kl_nats
    prompts: Literal["skill", "own"] = "skill"  # what it is made from; own: requests that the model writes itself

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
        check_options(self.rule, self.keep, self.loss_filter, self.low)
        if self.defence is None and self.weight is not None:
            raise ValueError(f"arm '{self.name}': weight={self.weight} without a defence; name one or drop weight")
        if self.defence is not None:
            check_name(self.defence)
        elif self.prompts != "skill":
            raise ValueError(f"arm '{self.name}': prompts={self.prompts} without a defence; name one")
        return self


class MonitorSection(Section):
    """Live drift and refusals on *estimate* prompts, task loss on held-out rows."""

    every: PositiveInt = 10
    prompts: PositiveInt = 40
    # Held-out rows for the task loss; 0 measures none. None: by the model, see training_run.monitored_rows.
    task_rows: Annotated[int, Field(ge=0)] | None = None


class AuditSection(Section):
    """Before training: where the alignment sits and how the task pulls at it."""

    prompts: Annotated[int, Field(ge=2)] = 64
    task_examples: PositiveInt = 64


class RestoreSection(Section):
    """After training: which adapters are repaired, and how."""

    arm: str = "plain"
    method: Literal["auto", "distil", "replay", "curvature"] = "auto"
    max_task_loss_increase: PositiveFloat = 0.05  # nats a token
    steps: PositiveInt | None = None  # most, of distil and replay; None: by the model, as in training
    learning_rate: PositiveFloat | None = None  # likewise
    minutes: PositiveFloat | None = None  # sizes cut to end in this time: numbers then depend on the machine
    seeds: tuple[Seed, ...] | None = None  # None: all training seeds


class ElasticitySection(Section):
    """How loosely the alignment is held: bits a token and KL against the parent model."""

    pretrain: str | None = None  # text rows that stand for pre-training; None: the organism's own
    texts: PositiveInt = 128
    prompts: PositiveInt = 64


class EvaluateSection(Section):
    """What the final cards hold besides refusals, the task and drift; words are those of `holdfast evaluate`."""

    attacks: tuple[str, ...] = ()
    attack_rows: str | None = None  # harmless rows for many-shot and relearn
    attack_templates: str | None = None
    suites: str | None = None  # YAML file of further suites
    choices: bool = False  # the organism's own multiple-choice items
    judge: tuple[str, ...] = ("offline",)  # the first counts, others are compared with it
    judge_url: str | None = None
    judge_model: str | None = None
    judge_rate: PositiveFloat | None = None
    system: str | None = None  # the deployment's system prompt
    batch_size: PositiveInt = 32
    noise: Annotated[int, Field(ge=0)] = 0  # sampled re-runs for the noise floor of refusals; 0 measures none

    @field_validator("noise")
    @classmethod
    def _one_is_none(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one re-run shows no noise; give 2 or more, or 0")
        return value


class Recipe(Section):
    """Everything a run needs. Two equal recipes on one machine give equal numbers."""

    version: Literal[1] = 1
    name: Name = "run"
    seed: Seed = 0
    model: ModelSection = ModelSection()
    skill: SkillSection = SkillSection()
    task: TaskSection = TaskSection()
    adapter: AdapterSection = AdapterSection()
    training: TrainingSection = TrainingSection()
    arms: tuple[ArmSection, ...] = (ArmSection(name="plain"), ArmSection(name="guarded", defence="anchor"))
    monitor: MonitorSection = MonitorSection()
    evaluate: EvaluateSection = EvaluateSection()
    audit: AuditSection | None = AuditSection()
    restore: tuple[RestoreSection, ...] = (RestoreSection(),)
    elasticity: ElasticitySection | None = None

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
