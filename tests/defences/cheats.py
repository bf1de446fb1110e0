"""Defences that break one rule of the house each; what they do is otherwise harmless."""

import contextlib
import os

import torch

from holdfast.defences import Defence


class Honest(Defence):
    """Uses every hook and keeps every rule: drops a random row, pulls at the weights, shrinks gradients."""

    name = "honest"
    knob = "strength"
    needs = frozenset({"loss", "rows", "prompts"})

    def __init__(self, material=None, strength: float = 0.01):
        self.prompts = material.prompts if material is not None else ()
        self.strength, self.made = strength, 0

    @classmethod
    def build(cls, material, knob):
        return cls(material, 0.01 if knob is None else knob)

    def choose(self, pool):
        assert pool.rows.input_ids_BT.shape[0] == len(pool.loss_B)
        self.made += 1
        out = torch.randint(len(pool.loss_B), (1,), generator=torch.Generator().manual_seed(self.made))
        return [k for k in range(len(pool.loss_B)) if k != int(out)]

    def loss(self, model, step):
        return self.strength * self.made * sum(p.pow(2).sum() for p in model.parameters() if p.requires_grad)

    def update(self, step, gradients):
        for gradient in gradients.values():
            gradient.mul_(0.9)

    @property
    def state(self):
        return {"made": self.made}

    @state.setter
    def state(self, found):
        self.made = found["made"]


class Meddler(Honest):
    """Rewrites rows of the pool while it looks at them."""

    def choose(self, pool):
        pool.rows.input_ids_BT[0, 0] += 1
        return super().choose(pool)


class Gambler(Honest):
    """Draws from a source that no seed reaches."""

    def choose(self, pool):
        return [k for k in range(len(pool.loss_B)) if k != os.urandom(1)[0] % len(pool.loss_B)]

    def loss(self, model, step):
        return super().loss(model, step) * (1 + os.urandom(1)[0])


class Amnesiac(Honest):
    """Counts, and does not say so to checkpoints."""

    @property
    def state(self):
        return {}


class Peeker(Honest):
    """Reads gradient norms without declaring it, and swallows the complaint."""

    def choose(self, pool):
        with contextlib.suppress(Exception):
            _ = pool.norm_B
        return super().choose(pool)


class Sprinter(Honest):
    """Takes steps of its own beside the run's."""

    def loss(self, model, step):
        with torch.enable_grad():
            own = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
            own.step()
        return super().loss(model, step)
