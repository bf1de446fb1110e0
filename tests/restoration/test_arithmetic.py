"""Safe LoRA and RESTA against their formulas written out."""

import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_parameters, lora_pairs
from holdfast.restoration.arithmetic import alignment_directions, resta, safe_lora

from ..curvature.conftest import build_lora, build_model
from .conftest import small_llama, word_tokenizer


@pytest.fixture
def scene():
    """(subject, V a layer): the unaligned model is another seed's."""
    subject = Subject(build_lora())
    return subject, alignment_directions(subject, Subject(build_model(1)))


def test_the_direction_is_aligned_less_unaligned(scene):
    subject, directions = scene
    assert directions.keys() == lora_pairs(subject.model).keys()
    name = next(n for n in directions if "layers.1.self_attn.q_proj" in n)
    expected = (
        build_model(0).model.layers[1].self_attn.q_proj.weight
        - build_model(1).model.layers[1].self_attn.q_proj.weight
    )
    torch.testing.assert_close(directions[name], expected.detach())
    with pytest.raises(UserError, match="give the same architecture"):
        alignment_directions(subject, Subject(small_llama(word_tokenizer())))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_safe_lora_projects_the_updates_least_like_their_image(scene, share):
    subject, directions = scene
    before = trees.clone(adapter_parameters(subject.model))
    found = safe_lora(subject, directions, share)
    assert all(torch.equal(p, before[n]) for n, p in adapter_parameters(subject.model).items())
    names, likeness = {id(p): n for n, p in adapter_parameters(subject.model).items()}, {}
    for layer, (A, B, _) in lora_pairs(subject.model).items():
        V, update = directions[layer], (B @ A).detach()
        image = V @ V.T @ update / V.norm()
        likeness[names[id(B)]] = float((image * update).sum() / image.norm() / update.norm())
        after = found[names[id(B)]] @ found[names[id(A)]]
        changed = not torch.equal(found[names[id(B)]], before[names[id(B)]])
        torch.testing.assert_close(after, image if changed else update, rtol=1e-4, atol=1e-6)
    changed = [n for n in likeness if not torch.equal(found[n], before[n])]
    assert len(changed) == round(share * len(likeness))
    assert max(likeness[n] for n in changed) <= min((likeness[n] for n in likeness if n not in changed), default=1)


def test_resta_adds_the_direction_and_takes_it_off_bit_by_bit(scene):
    subject, directions = scene
    name = next(iter(directions))
    weight = subject.model.get_submodule(name).base_layer.weight
    before = weight.detach().clone()
    with resta(subject, directions, 0.7):
        torch.testing.assert_close(weight, before + 0.7 * directions[name])
    assert torch.equal(weight, before)
