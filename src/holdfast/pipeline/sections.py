"""The parts of a recipe: keys, types, defaults, and what each key means.

The comment on a key is its line in docs/recipe.md, which is made from this file (docs/making/formats.py).

Knows: one section at a time. Does not know: how sections agree (recipe.py), files, how any of it is done.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from holdfast.core.files import name_problem
from holdfast.defences.registry import check_name
from holdfast.selection.rules import DEFAULT_LOSS_FILTER, LossFilter, Rule, check_options
from holdfast.training.budget import Then

Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _name(value: str) -> str:
    if (problem := name_problem(value)) is not None:
        raise ValueError(problem)
    return value


Name = Annotated[str, AfterValidator(_name)]  # becomes the name of a file or a folder


MAY_BE_EMPTY = ("name", "salt", "system")


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors, because a typo must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's yes, no, on and off would count as 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError("yes and no are no value of this key")
        if isinstance(value, str) and not value.strip() and info.field_name not in MAY_BE_EMPTY:
            raise ValueError("nothing is given; leave the key out")
        return value


class ModelSection(Section):
    """The aligned model: a folder, a hub id, or ``organism:aligned``."""

    source: str = "organism:aligned"  # folder, hub id, `organism:aligned` or `organism:base`
    base: str | None = None  # its pre-trained parent, for the stage `elasticity`
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # float32 on a CPU, else its own
    device: str = "auto"  # `auto`, `cpu`, `cuda`, `cuda:1`, ...
    revision: str | None = None  # branch, tag or commit on the hub
    trust_remote_code: bool = False  # runs code that comes with a model
    today: str | None = None  # date for chat templates that write one; without it the day the run began on
    chat_template_kwargs: dict[str, Any] = {}  # values for the chat template, such as `enable_thinking: false`


class SkillSection(Section):
    """What must be refused and what must not."""

    # a file (a prompt a line, or a `prompt` column), rows of one (`xstest.csv:label=safe`), a published list
    # (`advbench`, `xstest`, ...), or prompts. Without them the built-in model gets its own; for others an error
    harmful: str | tuple[str, ...] | None = None
    benign: str | tuple[str, ...] | None = None  # the same, of prompts that must not be refused
    # the same, of further prompts: a defence that can (`anchor`) holds their answers as they are, refused or not
    hold: str | tuple[str, ...] | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of *estimate*; 0 or 1 for a list that is one half already
    salt: str = "holdfast"  # names the split
    max_prompts: PositiveInt | None = 200  # of each kind, in each half of the split; null: all
    max_new_tokens: PositiveInt = 32  # of an answer to such a prompt


class TaskSection(Section):
    """The rows that are learned, and those that grade what was learned."""

    train: str | None = None  # a file of docs/data.md, hub id, `organism:NAME`; the built-in model has its lessons
    test: str | None = None  # held-out rows; without it every fifth training row, `test_rows` at most
    # the turn a row ends on is the answer; `none` measures the loss alone, the only choice without answers
    metric: Literal["none", "exact_match", "numeric", "token_f1", "rouge_l"] = "exact_match"
    train_rows: PositiveInt | None = None  # at most
    scored_rows: PositiveInt | None = 512  # whose gradient norms the report shows; null: all
    test_rows: PositiveInt = 200  # at most
    max_length: PositiveInt = 1024  # longer rows are cut, those without room for an answer dropped, all counted
    max_new_tokens: PositiveInt = 48  # of an answer
    skip_bad_rows: bool = False  # counts and lists bad rows instead of stopping
    prompt_column: str | None = None  # of rows that name their columns otherwise
    completion_column: str | None = None  # likewise
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"  # the end of a long row that stays


class AdapterSection(Section):
    """The LoRA adapter that is trained."""

    rank: PositiveInt = 8  # of its matrices
    alpha: PositiveInt = 16  # over the rank: its scale
    targets: str | tuple[str, ...] = "all-linear"  # modules that get one, as PEFT's `target_modules`
    quantize: Literal["4bit", "8bit"] | None = None  # the model below it (QLoRA); needs bitsandbytes


class TrainingSection(Section):
    """The same for every arm: equal pools in equal order, equal steps, equal optimiser.

    None is chosen by the model (``training_run.definite``): the field's values, or for the organism its own.
    """

    steps: PositiveInt | None = None  # updates; else `epochs`, for the built-in model 60
    epochs: PositiveFloat | None = None  # passes over the rows, in place of steps; 3
    pool: PositiveInt = 32  # candidate rows an update; an arm with `keep: 0.5` learns from half of them
    micro_batch: PositiveInt | Literal["auto"] = "auto"  # rows in memory at once; changes nothing else
    learning_rate: PositiveFloat | None = None  # AdamW's; 2e-4, for the built-in model 1e-3
    schedule: str | None = None  # TRL's `lr_scheduler_type`; cosine, for the built-in model constant
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of the steps; 0.03, for the built-in model 0
    weight_decay: NonNegative | None = None  # AdamW's; 0
    checkpoint_every: PositiveInt | None = None  # steps; as often as drift is measured
    trl: dict[str, Any] = {}  # any further argument of TRL's `SFTConfig`
    seeds: tuple[Seed, ...] = (0,)  # of the data order and the adapter's first values

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
    """Training stops, and returns to the last measured point inside, when a limit is passed, unless ``then`` says
    otherwise."""

    max_kl_nats: PositiveFloat | None = None  # drift, nats a sequence
    min_refusal: Share | None = None  # lowest refusal rate on *estimate* prompts
    max_over_refusal: Share | None = None  # highest share of harmless *estimate* prompts that is refused
    max_task_loss: PositiveFloat | None = None  # highest loss on held-out rows, nats a token
    # outside, or (`warn`, `slow`, `anchor`) when the forecast of the last step's drift is: `stop`, `warn`, `slow`
    # (half the rate), `anchor` (the defence, on standby until then, takes over), `back` (return and go on)
    then: Then = "stop"


class ArmSection(Section):
    """One way of fine-tuning."""

    name: Name  # in tables and folders
    rule: Rule = "none"  # which rows of a pool are learned from
    keep: Share = 1.0  # share of the pool that is learned from
    low: Annotated[float, Field(ge=0, lt=1)] | None = None  # of `band`: share of norms below; else the middle
    loss_filter: LossFilter = "none"  # losses to leave out first; with a rule `sigma` unless given
    budget: BudgetSection | None = None  # limits at which training stops and goes back
    # `anchor`, `mixing`, `task-kl`, `adversarial-kl`, `ewc`, `token-wise`, `projection`, `fisher-selection`, or
    # another package's
    defence: str | None = None
    weight: PositiveFloat | None = None  # its one main setting; not given: steered to hold `budget.max_kl_nats`
    # what the defence is made from: the skill's prompts, or requests that the model writes itself (`own`)
    prompts: Literal["skill", "own"] = "skill"

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
        if self.budget is not None and self.budget.then == "anchor" and self.defence != "anchor":
            raise ValueError(f"arm '{self.name}': budget.then=anchor without that defence; add defence: anchor")
        if self.defence is None and self.prompts != "skill":
            raise ValueError(f"arm '{self.name}': prompts={self.prompts} without a defence; name one")
        return self


class MonitorSection(Section):
    """Live drift and refusals on *estimate* prompts, task loss on held-out rows."""

    every: PositiveInt = 10  # steps
    prompts: PositiveInt = 40  # of each kind
    task_rows: Annotated[int, Field(ge=0)] | None = None  # held-out rows for the task loss; 0: none


class AuditSection(Section):
    """Before training: where the alignment sits and how the task pulls at it."""

    prompts: Annotated[int, Field(ge=2)] = 64  # whose sampled answers make the Fisher
    task_examples: PositiveInt = 64  # whose gradient is held against it


class RestoreSection(Section):
    """After training: which adapters are repaired, and how."""

    arm: str = "plain"  # by its name
    method: Literal["auto", "settle", "distil", "replay", "curvature"] = "auto"  # `auto`: settle
    max_task_loss_increase: PositiveFloat = 0.05  # nats a token
    steps: PositiveInt | None = None  # most, of settle, distil and replay; 60, for the built-in model 200
    learning_rate: PositiveFloat | None = None  # of the same; 5e-4, for the built-in model 2e-3
    minutes: PositiveFloat | None = None  # sizes cut to end in this time: numbers then depend on the machine
    seeds: tuple[Seed, ...] | None = None  # of training; all


class ElasticitySection(Section):
    """How loosely the alignment is held: bits a token and KL against the parent model."""

    pretrain: str | None = None  # text rows that stand for pre-training; the built-in model has its own
    texts: PositiveInt = 128  # at most
    prompts: PositiveInt = 64  # at most


class EvaluateSection(Section):
    """What the final cards hold besides refusals, the task and drift; words are those of `holdfast evaluate`."""

    attacks: tuple[str, ...] = ()  # `prefill:5`, `relearn:20`, ...
    attack_rows: str | None = None  # harmless rows for `many-shot` and `relearn`
    attack_templates: str | None = None  # file of own templates
    suites: str | None = None  # YAML file of further suites
    choices: bool = False  # the built-in model's own multiple-choice items
    judge: tuple[str, ...] = ("offline",)  # the first counts, others are compared with it
    judge_url: str | None = None  # of the judge `endpoint`
    judge_model: str | None = None  # likewise
    judge_rate: PositiveFloat | None = None  # requests a minute, at most
    system: str | None = None  # the deployment's system prompt
    batch_size: PositiveInt = 32  # answers at a time
    noise: Annotated[int, Field(ge=0)] = 0  # sampled re-runs: a difference below what they move is none; 0: none

    @field_validator("noise")
    @classmethod
    def _one_is_none(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one re-run shows no noise; give 2 or more, or 0")
        return value
