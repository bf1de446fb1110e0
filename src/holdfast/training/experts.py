"""Mixtures of experts as TRL reads them: the number of experts by the name it looks for.

Knows: TRL's and transformers' names. Does not know: routing.
"""

import copy
from typing import Any

from holdfast.models import text_config


def with_experts(model: Any, args: Any) -> Any:
    """``args`` for a model whose configuration can ask for a balance of experts, which TRL then trains.

    TRL reads ``num_experts``; some configurations (GraniteMoeHybrid) say ``num_local_experts`` only. Where there
    are none, as in that family's dense models, there is nothing to balance.
    """
    config = text_config(model) if hasattr(model, "config") else None
    if config is None or not hasattr(config, "output_router_logits"):
        return args
    experts = getattr(config, "num_experts", None)
    if experts is None:
        experts = getattr(config, "num_local_experts", None)
        if experts:
            config.num_experts = experts
    if not experts and args.router_aux_loss_coef is None:
        args = copy.copy(args)
        args.router_aux_loss_coef = 0.0
    return args
