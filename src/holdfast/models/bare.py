"""The model without its adapter, and whether that is the base model.

Knows: PEFT's switch, what the switch leaves behind (biases and other base parameters trained beside the adapter,
merged weights), the base model's logits after a few fixed tokens. Does not know: drift, restoration, files.

PEFT's own switch turns layers off. Parameters of the base model that were trained with the adapter stay as they
are then, and the model "without its adapter" is nobody. What :func:`keep_base` noted when the adapter was put on
is put back inside :func:`adapter_off`; where nothing was noted and something may have moved, it refuses.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.models.adapter_scope import adapter_parameters, has_adapter, trained_base_parameters
from holdfast.models.limits import vocabulary_size

_NOTE = "_holdfast_base"  # attribute of the wrapped model: travels with it, copies with it
_FIXED_TOKENS = 8
_HALF = (torch.float16, torch.bfloat16)
# Ways of starting a LoRA that take something out of the base's weights and put it into the adapter.
_REWRITING = ("pissa", "corda", "olora", "loftq", "lora_ga")
WAY_OUT = "load the base with its adapter (holdfast.load(base, adapter=folder)), or compare with the base itself"


@dataclass(frozen=True)
class _Base:
    """What was noted of the base model before the adapter came.

    Attributes:
        logits_V: after a few fixed tokens, float32 on the CPU.
        values: of base parameters that the adapter changed or that are trained with it, by plain name.
        adapters: names of those that were on.
        differs: whether switching them off did not give the base back even then.
    """

    logits_V: torch.Tensor
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    adapters: frozenset[str] = frozenset()
    differs: bool = False


@torch.no_grad()
def compared_logits(model: Any) -> torch.Tensor:
    """Logits after a few fixed tokens, as the model is now.

    Returns:
        logits_V in float32 on the CPU.
    """
    spread = torch.linspace(0, (vocabulary_size(model) - 1) // 2, _FIXED_TOKENS).long().unique()
    ids_1T = spread[None].to(next(model.parameters()).device)
    with undisturbed(model):
        output = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False, return_dict=True)
    return output.logits[0, -1].float().cpu()


def keep_base(model: Any, logits_V: torch.Tensor, before: Mapping[str, torch.Tensor]) -> None:
    """Note what the base was, on the model that carries its adapter, and check once that it can be had again.

    Args:
        model: with the adapter on.
        logits_V: :func:`compared_logits` of the base, before.
        before: copies of base parameters that the adapter may have changed, by their name in the base.
    """
    now = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    values = {
        name: old
        for name, old in before.items()
        if name in now and now[name].shape == old.shape and not torch.equal(now[name], old.to(now[name].device))
    }
    for name, parameter in trained_base_parameters(model).items():  # to be trained on from here
        values.setdefault(plain_name(name), parameter.detach().clone())
    note = _Base(logits_V, values, frozenset(model.peft_config))
    setattr(model, _NOTE, note)
    with _off(model):
        differs = not _close(compared_logits(model), logits_V, model)
    setattr(model, _NOTE, replace(note, differs=differs))


def moves_base(config: Any) -> bool:
    """Whether an adapter's configuration makes PEFT rewrite the base's own weights as it is put on (PiSSA)."""
    held = config.get("init_lora_weights") if isinstance(config, Mapping) else None
    start = held if held is not None else getattr(config, "init_lora_weights", None)
    return str(start).lower().startswith(_REWRITING)


def plain_name(name: str) -> str:
    """A parameter's name in the model without PEFT."""
    plain = name.removeprefix("base_model.model.")
    return plain.replace(".base_layer.", ".").replace(".original_module.", ".")


def adapter_off_is_base(model: Any) -> str | None:
    """Why the model without its adapter is not its base model; None: it is.

    Args:
        model: a model, or a Subject.

    Runs the model on a few tokens: against the base model's logits where they were noted when the adapter was put
    on (:func:`holdfast.load`, ``add_lora``); otherwise only if PEFT's configuration or ``requires_grad`` says that
    the base itself may have been trained, and then an adapter that does nothing yet is taken as untrained.
    """
    model = getattr(model, "model", model) if not isinstance(model, torch.nn.Module) else model
    if not has_adapter(model):
        return None
    return _lost(model) or _moved(model, always=True)


@contextlib.contextmanager
def adapter_off(model: Any, check: bool = True) -> Iterator[Any]:
    """Inside the block the model is its base model; a model without an adapter is itself.

    Args:
        model: with or without an adapter.
        check: False for whoever was here before and changed nothing since; looking costs as much as a small batch.

    Raises:
        UserError: switching the adapter off does not give the base back (see :func:`adapter_off_is_base`).
    """
    if not has_adapter(model):
        yield model
        return
    reason = (_lost(model) or _moved(model, always=False)) if check else None
    if reason is not None:
        raise UserError(f"the model without its adapter is not its base: {reason}; {WAY_OUT}")
    with _off(model):
        yield model


def trained_beside(model: Any, scope: Mapping[str, torch.nn.Parameter] | None = None) -> list[str]:
    """Parameters of the base model that training would move and :func:`adapter_off` could not put back.

    Those PEFT trains beside the adapter, those that require a gradient and those in ``scope``.
    """
    base, kept = trained_base_parameters(model), _noted(model)
    loose = {id(parameter) for parameter in base.values()}
    own = {id(parameter) for parameter in adapter_parameters(model, active_only=False).values()} - loose
    loose |= {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    loose |= {id(parameter) for parameter in (scope or {}).values()}
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in loose - own and plain_name(name) not in kept
    ]


def _noted(model: Any) -> Mapping[str, torch.Tensor]:
    note: _Base | None = getattr(model, _NOTE, None)
    return note.values if note is not None else {}


def _lost(model: Any) -> str | None:
    """Why the base cannot be had by the switch, whatever its parameters are now."""
    note: _Base | None = getattr(model, _NOTE, None)
    if not adapter_parameters(model, active_only=False):
        return "its adapter is in no layer any more (merged and unloaded?)"
    if note is not None and note.differs:
        return "putting the adapter on changed the base's own weights"
    rewriting = [name for name, config in model.peft_config.items() if moves_base(config)]
    rewriting = [name for name in rewriting if note is None or name not in note.adapters]
    if rewriting:
        return f"putting adapter '{rewriting[0]}' on rewrote the base's weights (init_lora_weights)"
    return _merged(model)


def _merged(model: Any) -> str | None:
    for name, module in model.named_modules():
        if not getattr(module, "merged_adapters", None):
            continue
        if any(parameter.dtype in _HALF for parameter in module.parameters()):
            return f"merged into half-precision weights ({name}), which rounding changed for good"
    return None


def _moved(model: Any, always: bool) -> str | None:
    note: _Base | None = getattr(model, _NOTE, None)
    beside = trained_beside(model)
    if not beside and (note is None or not always):
        return None
    with _off(model):
        off_V = compared_logits(model)
    if note is not None:
        same = _close(off_V, note.logits_V, model)
        what = f"{len(beside)} of its own parameters are trained with it" if beside else "other weights changed"
        return None if same else f"its logits are not those noted before the adapter was put on ({what})"
    if torch.equal(off_V, compared_logits(model)):
        return None  # an adapter that does nothing was not trained, nor was what is trained with it
    return f"{len(beside)} parameters of the base were trained with it ({beside[0]}, ...), and nobody kept a copy"


def _close(one_V: torch.Tensor, other_V: torch.Tensor, model: Any) -> bool:
    if one_V.shape != other_V.shape:
        return False
    half = any(parameter.dtype in _HALF for parameter in model.parameters())
    size = float(other_V.abs().max())
    return float((one_V - other_V).abs().max()) <= (2e-2 if half else 1e-4) * max(size, 1e-3)


@contextlib.contextmanager
def _off(model: Any) -> Iterator[None]:
    """The adapter off and what was noted of the base put back; all flags as they were afterwards."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
            stack.enter_context(model.disable_adapter() if hasattr(model, "disable_adapter") else _disabled(model))
        stack.enter_context(_restored(model))
        try:
            yield
        finally:
            stack.close()
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


@contextlib.contextmanager
def _restored(model: Any) -> Iterator[None]:
    values = _noted(model)
    held = []
    for name, parameter in model.named_parameters():
        if plain_name(name) in values:
            held.append((parameter, parameter.data))
            parameter.data = values[plain_name(name)].to(parameter.device, parameter.dtype)
    try:
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


@contextlib.contextmanager
def _disabled(model: Any) -> Iterator[None]:
    """For adapters that transformers put on by itself (``model.add_adapter``)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if all(module.disable_adapters for module in model.modules() if isinstance(module, BaseTunerLayer)):
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()
