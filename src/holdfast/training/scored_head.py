"""TRL's output head on the positions that carry loss alone, where TRL itself puts every position through it.

Knows: the forward that SFTTrainer patches in, positions of labels. Does not know: losses, defences, data.

SFTTrainer reads log-probabilities, entropy and accuracy off a head that works in tiles. With Triton it cuts the
hidden states to the labelled positions first; without (a CPU) it runs prompts and padding through the vocabulary
too and multiplies what comes of them by zero: three quarters of the head's work on short instructions. Here they
are cut before the head and what comes out is put back where it belongs. Every kept row goes through the same
products as before, so losses and weights stay those of SFTTrainer to the bit.

Shapes: B rows, T time, S = T - 1 predicted positions, H hidden size, M labelled positions.
"""

import functools
import types
from typing import Any

import torch

FEWEST = 16  # fewer rows of a matrix product may be summed in another order


class _OtherShape(Exception):
    """The backbone gave hidden states that are not those of the labels' positions."""


def read_labelled_positions_only(model: Any) -> None:
    """Wrap the forward that SFTTrainer has patched into ``model``, a causal language model without PEFT around it.

    Left alone: calls without labels, devices where TRL cuts by itself, a head that is trained (its gradient is a
    sum over positions, whose order would change).
    """
    forward = model.forward

    @functools.wraps(type(model).forward)  # as TRL does: callers look at the signature
    def cut(self: Any, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
        mask_BS = _labelled(self, labels, kwargs)
        if mask_BS is None:
            return forward(*args, labels=labels, **kwargs) if labels is not None else forward(*args, **kwargs)

        def labelled_only(_module: Any, _args: Any, output: Any) -> Any:
            hidden_BTH = getattr(output, "last_hidden_state", None)
            if hidden_BTH is None or hidden_BTH.shape[:2] != labels.shape:
                raise _OtherShape
            output.last_hidden_state = hidden_BTH[:, :-1][mask_BS][None]
            return output

        handle = self.base_model.register_forward_hook(labelled_only)
        try:
            # Labels that are shifted already are read as they stand.
            found = forward(*args, shift_labels=labels[:, 1:][mask_BS][None], **kwargs)
        except _OtherShape:
            found = None
        finally:
            handle.remove()
        return forward(*args, labels=labels, **kwargs) if found is None else _put_back(found, mask_BS)

    model.forward = types.MethodType(cut, model)


def _labelled(model: Any, labels: Any, kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Where labels are, B x S; None where TRL's own way is taken."""
    if labels is None or not kwargs.get("fused_lm_head") or kwargs.get("shift_labels") is not None:
        return None
    head = model.get_output_embeddings()
    if labels.device.type != "cpu" or head is None or any(p.requires_grad for p in head.parameters()):
        return None
    mask_BS = labels[:, 1:] != -100
    return mask_BS if int(mask_BS.sum()) >= FEWEST else None


def _put_back(found: Any, mask_BS: torch.Tensor) -> Any:
    """The outputs at all positions again, zero where nothing was asked."""
    for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"):
        value = getattr(found, name, None)
        if value is not None:
            found[name] = value.new_zeros(mask_BS.shape).masked_scatter(mask_BS, value)
    found["label_mask"] = mask_BS
    return found
