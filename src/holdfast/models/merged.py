"""A model's own weights by the names they have without an adapter, and what an adapter makes of them.

Knows: PEFT's layers and their merging, whatever the method. Does not know: gradients, files.
"""

import warnings
from typing import Any

import torch

from holdfast.models.adapter_scope import has_adapter

_INSERTED = (".base_layer", ".original_module", ".token_adapter")


def base_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters of the model below its adapters, by their names there."""
    named = dict(model.named_parameters())
    if not has_adapter(model):
        return named
    layers, wrappers = _layers(model)
    found: dict[str, torch.nn.Parameter] = {}
    for name, parameter in named.items():
        layer, wrapper = _owner(name, layers), _owner(name, wrappers)
        below = layer is None or name.startswith(f"{layer}.base_layer.")
        if below and (wrapper is None or not name.startswith(f"{wrapper}.modules_to_save.")):
            found[_plain(name)] = parameter
    return found


@torch.no_grad()
def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the weights that the active adapters change, as PEFT merges them; the model is left as it is."""
    if not has_adapter(model):
        return {}
    layers, wrappers = _layers(model)
    found: dict[str, torch.Tensor] = {}
    for path, layer in layers.items():
        found |= {_plain(f"{path}.{name}"): weight for name, weight in _merged(layer).items()}
    for path, wrapper in wrappers.items():
        copies = getattr(wrapper, "modules_to_save", {})
        for adapter in (name for name in wrapper.active_adapters if name in copies):
            named = copies[adapter].named_parameters()
            found |= {_plain(f"{path}.{name}"): parameter.detach() for name, parameter in named}
    return found


def _layers(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """PEFT's layers, and its wrappers around modules that are trained whole, by path."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    modules = dict(model.named_modules())
    layers = {path: module for path, module in modules.items() if isinstance(module, BaseTunerLayer)}
    return layers, {path: module for path, module in modules.items() if isinstance(module, ModulesToSaveWrapper)}


def _owner(name: str, paths: dict[str, Any]) -> str | None:
    while name:
        name = name.rpartition(".")[0]
        if name in paths:
            return name
    return None


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    for inserted in _INSERTED:
        name = name.replace(f"{inserted}.", ".")
    return name


def _merged(layer: Any) -> dict[str, torch.Tensor]:
    base = layer.get_base_layer()
    kept = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    if layer.merged or layer.disable_adapters:
        return kept
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that unmerging is inexact: the weights are put back from copies
        try:
            layer.merge()
            return {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
        finally:
            if layer.merged:
                layer.unmerge()
            for name, parameter in base.named_parameters():
                parameter.data.copy_(kept[name])
