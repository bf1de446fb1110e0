"""Weights whose values have only changed places are other weights."""

import pytest
import torch

from holdfast.training.place import fingerprint


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4), (0, 3)])
def test_any_shape_has_a_fingerprint(shape):
    model = torch.nn.ParameterDict({"p": torch.nn.Parameter(torch.ones(shape))})
    assert fingerprint(model) == fingerprint(model)


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
def test_moved_values_are_seen(dims):
    model = torch.nn.Linear(3, 4, bias=False)
    before = fingerprint(model)
    with torch.no_grad():
        model.weight.copy_(model.weight.flip(dims))
    assert fingerprint(model) != before
