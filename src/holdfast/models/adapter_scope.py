"""Which parameters are the adapter's: those PEFT itself would train, whatever the method.

Knows: PEFT's own marking. Does not know: gradients, files, how an adapter is switched off.
"""

from typing import Any

import torch

from holdfast.core.errors import UserError


def adapter_parameters(model: Any, active_only: bool = True) -> dict[str, torch.nn.Parameter]:
    """The parameters PEFT trains for the active adapters (or for all of them), by name, sorted.

    LoRA and its relatives, ``modules_to_save``, trained tokens, and the base model's biases where the adapter's
    configuration trains them. Empty without an adapter. Whether anything requires a gradient at the moment (an
    adapter loaded for inference does not) makes no difference and is left as it is.

    Raises:
        UserError: a method without layers of its own in the model (prompt and prefix tuning and their like).
    """
    own, base = _marked(model, active_only)
    return _chosen(model, own | base)


def trained_base_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Of :func:`adapter_parameters`, those of the base model itself, which PEFT changes without keeping a copy."""
    return _chosen(model, _marked(model)[1])


def has_adapter(model: Any) -> bool:
    """Whether a PEFT adapter sits on the model, put there by PEFT or by transformers."""
    return bool(getattr(model, "peft_config", None))


def check_supported(model: Any) -> None:
    """Refuse adapters that change what the model reads and not what its layers compute.

    Raises:
        UserError: a prompt-learning method; a method outside PEFT's layer tuners.
    """
    if has_adapter(model):
        _tuner(model)


def _chosen(model: Any, wanted: set[int]) -> dict[str, torch.nn.Parameter]:
    named = dict(model.named_parameters())
    return {name: named[name] for name in sorted(named) if id(named[name]) in wanted}


def check_method(kind: str, name: str = "default") -> None:
    """Refuse a PEFT method by the name its configuration has (``peft_type``).

    Raises:
        UserError: it is not a method that works inside the layers.
    """
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(kind)) if kind in PeftType.__members__ else None
    if tuner is None or not issubclass(tuner, BaseTuner):
        raise UserError(
            f"adapter '{name}': {kind} works on what the model reads, or is unknown here, and losses and "
            "gradients have no place for it; use an adapter in the layers (LoRA, IA3, ...)"
        )


def _tuner(model: Any) -> Any:
    """PEFT's tuner; None where transformers put the adapter on by itself."""
    from peft.tuners.tuners_utils import BaseTuner

    for name, config in model.peft_config.items():
        check_method(str(getattr(config.peft_type, "value", config.peft_type)), name)
    tuner = getattr(model, "base_model", None)
    return tuner if isinstance(tuner, BaseTuner) else None


def _active_in_layers(model: Any) -> list[str]:
    """What the layers themselves say: a model that transformers, or PEFT around it, put adapters into."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return sorted({name for layer in layers for name in layer.active_adapters})


def _marked(model: Any, active_only: bool = True) -> tuple[set[int], set[int]]:
    """Ids of the adapters' own parameters, and of the base model's biases that PEFT trains beside them.

    Every flag goes down, PEFT raises those it trains, and the flags are put back.
    """
    if not has_adapter(model):
        return set(), set()
    from peft.tuners.tuners_utils import set_requires_grad

    tuner = _tuner(model)
    named = list(model.named_parameters())
    flags = [parameter.requires_grad for _, parameter in named]
    modes = [(config, config.inference_mode) for config in model.peft_config.values()]
    try:
        for _, parameter in named:
            parameter.requires_grad_(False)
        for config, _ in modes:
            config.inference_mode = False
        active = tuner.active_adapters if tuner is not None else _active_in_layers(model)
        set_requires_grad(tuner or model, active if active_only else list(model.peft_config))
        layers = {id(parameter) for _, parameter in named if parameter.requires_grad}
        if tuner is not None:
            tuner._mark_only_adapters_as_trainable(tuner.model)
        raised = {id(parameter): name for name, parameter in named if parameter.requires_grad}
    finally:
        for (_, parameter), flag in zip(named, flags, strict=True):
            parameter.requires_grad_(flag)
        for config, mode in modes:
            config.inference_mode = mode
    base = {key for key, name in raised.items() if key not in layers and name.endswith("bias")}
    own = set(raised) if active_only else set(raised) | layers
    return own - base, base
