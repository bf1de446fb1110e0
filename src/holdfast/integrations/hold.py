"""A defence, live drift and a budget in any trainer of transformers, as one callback made from a few settings.

Knows: which events of a trainer's callbacks are which moments of a defence. Does not know: any defence or trainer.

A callback sees no rows, so what chooses or looks at them needs :class:`holdfast.GuardedTrainer`. A defence's loss
is differentiated before the first micro-batch of an update; its gradients join the task's and are clipped with
them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat, PositiveInt, ValidationError, model_validator
from transformers import TrainerCallback

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, undisturbed
from holdfast.defences.registry import check_name
from holdfast.evaluation import Reference, Skill, sample_reference
from holdfast.evaluation.own_prompts import own_prompts
from holdfast.evaluation.prompt_lists import read_prompts
from holdfast.models import Subject
from holdfast.models.adapters import lora_pairs
from holdfast.pipeline.defended import OWN_PROMPTS, HeldPrompts, check_further, defences_of, held_prompts
from holdfast.pipeline.prompts import build_skill
from holdfast.pipeline.recipe import (
    AdapterSection,
    ArmSection,
    BudgetSection,
    MonitorSection,
    Section,
    SkillSection,
    TrainingSection,
)
from holdfast.pipeline.training_run import RunSpec
from holdfast.training import DriftBudget, DriftMonitor, RefusalProbe
from holdfast.training.guards import Guards
from holdfast.training.monitor import subject_of


class HoldSettings(Section):
    """What is held and watched; the words are those of a recipe and of ``holdfast train``.

    Attributes:
        harmful, benign: prompts that must be refused and must not; both or neither. Neither: the model's answers
            to requests that it writes itself are held, and refusals are not measured.
        hold: further prompts whose answers are held.
        defence: by name; "none" only watches. weight: its one main setting.
        every: steps between measurements. prompts: of each kind that are watched.
    """

    harmful: str | None = None
    benign: str | None = None
    hold: tuple[str, ...] = ()
    defence: str = "anchor"
    weight: PositiveFloat | None = None
    budget: BudgetSection | None = None
    every: PositiveInt = 10
    prompts: PositiveInt = 40
    max_new_tokens: PositiveInt = 32
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "HoldSettings":
        if self.held_by is None and self.weight is not None:
            raise ValueError("a weight and no defence; name one, or leave the weight out")
        if self.held_by is not None:
            check_name(self.held_by)
        if self.budget is not None and self.budget.then == "anchor" and self.held_by != "anchor":
            raise ValueError("budget.then: anchor, and another defence; leave defence out")
        return self

    @property
    def held_by(self) -> str | None:
        """The defence; another tool's file may have no way to say null."""
        return None if self.defence == "none" else self.defence

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "HoldSettings":
        """Check values of another tool's file.

        Raises:
            UserError: an unknown key, or a value that does not fit.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(["holdfast", *map(str, first["loc"])])
            known = f"; known keys: {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            raise UserError(f"{place}: {first['msg']}, got {first['input']!r}{known}") from None

    def skill(self) -> Skill | None:
        """Of the two lists; None without them.

        Raises:
            UserError: one without the other, unreadable prompts, a limit on refusals without prompts.
        """
        if (self.harmful is None) != (self.benign is None):
            raise UserError("holdfast: harmful and benign prompts come together; give both, or neither")
        if self.harmful is not None:
            return build_skill(SkillSection(harmful=self.harmful, benign=self.benign), self.seed)
        limits = self.budget
        if limits is not None and (limits.min_refusal is not None or limits.max_over_refusal is not None):
            raise UserError("holdfast: a limit on refusals, and no prompts to measure them on; give both lists")
        return None

    def further(self) -> tuple[str, ...]:
        """The prompts of ``hold``, each once."""
        if not self.hold:
            return ()
        check_further(self.held_by, "none")
        return tuple(dict.fromkeys(p for source in self.hold for p in read_prompts(source, "benign").prompts))

    def spec(self) -> RunSpec:
        """As a fine-tune of ours has it; how rows are trained on is the other trainer's."""
        arm = ArmSection(name="train", defence=self.held_by, weight=self.weight, budget=self.budget)
        monitor = MonitorSection(every=self.every, prompts=self.prompts)
        return RunSpec(AdapterSection(), TrainingSection(), arm, monitor, self.seed, 0, self.max_new_tokens)


class HoldCallback(TrainerCallback):
    """Give it to a trainer when that is made: the model as it is then is what is held.

    Args:
        settings: :class:`HoldSettings`, or their values.

    Attributes:
        monitor: the :class:`holdfast.DriftMonitor`, once training has begun; it takes its own place among the
            trainer's callbacks.

    Raises:
        UserError: prompts that cannot be read (at once); a defence that chooses or looks at rows; several
            processes, float16 with loss scaling, DeepSpeed or FSDP together with a defence; a run that goes on
            from a checkpoint of other defences; as :class:`holdfast.DriftMonitor`.
    """

    def __init__(self, settings: HoldSettings | Mapping[str, Any]) -> None:
        self.settings = settings if isinstance(settings, HoldSettings) else HoldSettings.read(settings)
        self._skill, self._further = self.settings.skill(), self.settings.further()
        self.monitor: DriftMonitor | None = None
        self._guards: Guards | None = None

    def on_init_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        self._begin(args, subject_of(model, processing_class))

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        if self.monitor is None:
            if state.global_step:
                raise UserError(
                    "HoldCallback: the run goes on from a checkpoint, so the aligned model is not seen; give the "
                    "callback to the trainer when it is made"
                )
            self._begin(args, subject_of(model, processing_class))
        assert self.monitor is not None and self._guards is not None
        if state.global_step:
            self._guards.load(_checkpoint(args, state))
        self.monitor.on_train_begin(args, state, control, model=model, processing_class=processing_class, **kwargs)

    def on_step_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        assert self.monitor is not None and self._guards is not None
        if not self._guards.all:
            return
        bare = subject_of(model, processing_class).model
        bare.train()  # as it is a moment later for the task's own loss
        for added in self._guards.losses(bare, int(state.global_step) + 1):
            added.backward()
        self.monitor.pending_logs |= self._guards.notes()

    def on_pre_optimizer_step(self, args, state, control, model=None, processing_class=None, **kwargs):
        assert self._guards is not None
        self._guards.update(subject_of(model, processing_class).model, int(state.global_step) + 1)

    def on_save(self, args, state, control, **kwargs):
        if self._guards is not None and state.is_world_process_zero:
            self._guards.save(_checkpoint(args, state))

    def _begin(self, args: Any, subject: Subject) -> None:
        if subject.tokenizer is None:
            raise UserError("HoldCallback: the trainer has no tokenizer; give it as processing_class")
        spec, held = self.settings.spec(), self._held(subject)
        with undisturbed(subject.model):
            seed = derive_seed(spec.seed, "estimate")
            answers = sample_reference(subject, held.watched, spec.max_new_tokens, seed)
            reference = Reference.on(subject, answers, source="adapter_off" if _untrained(subject) else "stored")
        self._guards = Guards(defences_of(spec, reference, held), args)
        _check_supported(self._guards, args)
        self._guards.begin(subject)
        budget = spec.arm.budget
        self.monitor = DriftMonitor(
            reference,
            every=spec.monitor.every,
            budget=budget and DriftBudget(**budget.model_dump()),
            probe=self._skill
            and RefusalProbe.of(
                self._skill,
                limit=spec.monitor.prompts,
                over_refusal=budget is not None and budget.max_over_refusal is not None,
                max_new_tokens=spec.max_new_tokens,
            ),
        )
        self.monitor.listener = self._guards.read

    def _held(self, subject: Subject) -> HeldPrompts:
        further = self._further
        if self._skill is None and not further:
            seed = derive_seed(self.settings.seed, "own prompts")
            with undisturbed(subject.model):
                further = own_prompts(subject, OWN_PROMPTS, self.settings.max_new_tokens, seed)
        return held_prompts(self._skill, further, self.settings.prompts)


def _untrained(subject: Subject) -> bool:
    """A LoRA that changes nothing yet: without it the model is what was handed in."""
    pairs = lora_pairs(subject.model).values()
    return subject.has_adapter and bool(pairs) and not any(b_OR.any() for _, b_OR, _ in pairs)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check_supported(guards: Guards, args: Any) -> None:
    """What a callback cannot do for a defence."""
    for defence in guards.all:
        if defence.overrides("choose") or defence.overrides("see"):
            raise UserError(
                f"defence '{defence.name}' looks at rows, which a callback does not see; use anchor or ewc, or "
                "train with holdfast.GuardedTrainer"
            )
        other = (
            f"{args.world_size} processes"
            if args.world_size > 1
            else "float16 with loss scaling"
            if args.fp16
            else "DeepSpeed"
            if args.deepspeed
            else "FSDP"
            if args.fsdp
            else None
        )
        if other is not None:
            raise UserError(
                f"defence '{defence.name}': {other} is not supported by the callback; use one process in bfloat16 "
                "or float32, or defence: none to watch only"
            )
