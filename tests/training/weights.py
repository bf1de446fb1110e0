"""Comparing the weights of two runs."""

import torch

from holdfast.models import Subject


def weights(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def largest_difference(a, b) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
