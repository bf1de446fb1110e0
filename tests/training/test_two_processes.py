"""Two gloo processes end with the losses and weights of one, without a defence and with an anchor."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.multiprocessing.spawn import start_processes

from holdfast.core.errors import UserError
from holdfast.defences import Anchor, Defence
from holdfast.training import GuardedTrainer

KINDS = ("plain", "anchor")
PROMPTS = ["please add two", "name a colour", "i cannot help", "sorry"]
SETTINGS = {
    "max_steps": 3, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.5, "gradient_accumulation_steps": 2
}  # fmt: skip


class Looks(Defence):
    name = "looks"
    needs = frozenset({"rows"})

    def see(self, rows):
        pass

    def loss(self, model, step):
        return None


def outcome(build, options, examples, kind, rows):
    """Losses and weights of a short run, ``rows`` in a micro-batch."""
    subject = build()
    defences = (
        [Anchor(PROMPTS, 100.0, per_step=2, max_new_tokens=4, controls=["and three"])] if kind != "plain" else []
    )
    args = options(per_device_train_batch_size=rows, **SETTINGS)
    trainer = GuardedTrainer(subject, args, examples, defences=defences)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, torch.cat([p.detach().flatten() for p in subject.model.parameters()])


def work(rank, folder, port, build, options, examples):
    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):  # what this process was forked with
        state._reset_state()
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    results = {kind: outcome(build, options, examples, kind, 2) for kind in KINDS}
    with pytest.raises(UserError, match="'looks' adds a loss on the rows of a process"):
        GuardedTrainer(build(), options(), examples, defences=[Looks()])
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(build, options, examples):
    alone = {kind: outcome(build, options, examples, kind, 4) for kind in KINDS}
    assert float((alone["anchor"][1] - alone["plain"][1]).norm()) > 1e-4
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        # Forked: to import everything twice anew costs more than all that is tested here.
        given = (folder, port, build, options, examples)
        start_processes(work, args=given, nprocs=2, join=True, start_method="fork")
        first, second = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(2))
    for kind in KINDS:
        assert torch.equal(first[kind][1], second[kind][1])
        assert first[kind][0] == pytest.approx(alone[kind][0], rel=1e-4)
        torch.testing.assert_close(first[kind][1], alone[kind][1], rtol=1e-4, atol=1e-6)
