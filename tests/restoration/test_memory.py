"""A step of replay in several passes is the step in one."""

import torch

from holdfast.data import Example, collate
from holdfast.gradients import memory
from holdfast.models import add_lora, batch_logits, sequence_nll
from holdfast.models.subject import Subject
from holdfast.restoration.replay import add_gradient
from tests.conftest import build_llama

EXAMPLES = [Example(tuple(range(1, 2 + k % 3)), tuple(range(5, 8 + 3 * (k % 4))), str(k)) for k in range(9)]


def test_a_step_in_several_passes_has_the_gradient_of_one(monkeypatch):
    subject = Subject(add_lora(build_llama(40), rank=2, seed=0))
    parameters = subject.parameters()
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = collate(EXAMPLES, 0)
    loss = sequence_nll(batch_logits(subject.model, batch), batch).mean()
    expected = torch.autograd.grad(loss, list(parameters.values()))
    rows = []
    subject.model.register_forward_hook(
        lambda _m, _a, kwargs, _o: rows.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for room in (memory.CPU_BYTES, 1):
        monkeypatch.setattr(memory, "CPU_BYTES", room)
        subject.model.zero_grad(set_to_none=True)
        add_gradient(subject, EXAMPLES)
        for parameter, gradient in zip(parameters.values(), expected, strict=True):
            assert torch.allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
    longest = max(len(example.input_ids) for example in EXAMPLES)
    assert len(rows) > 3 and max(rows[1:]) <= longest  # never more tokens than the longest row has
