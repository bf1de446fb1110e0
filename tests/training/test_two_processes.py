"""Two gloo processes end with the choice, losses and weights of one, whatever chooses rows or looks at them."""

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.multiprocessing.spawn import start_processes

from holdfast.core.errors import UserError
from holdfast.defences import Anchor, Defence, TaskKL, TokenWise
from holdfast.defences.adversarial_kl import AdversarialKL
from holdfast.selection import OnlineSelection
from holdfast.training import GuardedTrainer
from holdfast.training.guards import Guards
from holdfast.training.trace import read_lines
from holdfast.training.trainer import TRACE_FILE

PROMPTS = ["please add two", "name a colour", "i cannot help", "sorry"]
# Each with its defences and what differs in the arguments.
KINDS = {
    "plain": (lambda: [], {}),
    "anchor": (lambda: [Anchor(PROMPTS, 100.0, max_new_tokens=4, controls=["and three"])], {}),
    "moderate": (lambda: [OnlineSelection(0.5, "moderate")], {}),
    "one micro-batch": (lambda: [OnlineSelection(0.5, "moderate")], {"gradient_accumulation_steps": 1}),
    "lengths": (lambda: [OnlineSelection(0.5, "inverse_length", "none")], {}),
    "by position": (lambda: [OnlineSelection(0.5, "random", "none"), TaskKL(3.0, 3)], {}),
    "one row": (lambda: [OnlineSelection(0.125, "low", "none"), TaskKL(3.0)], {}),
    "nothing": (lambda: [Nothing()], {"max_steps": 1}),
    "tokens": (lambda: [TokenWise(2.0)], {"gradient_accumulation_steps": 1}),
    "nudged": (lambda: [AdversarialKL(3.0, per_step=3)], {}),
}
SETTINGS = {
    "max_steps": 3, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.5, "gradient_accumulation_steps": 2,
    # Fifteen rows, so that the last pool of an epoch has one row fewer on one process than on the other.
    "accelerator_config": {"even_batches": False},
}  # fmt: skip


class Nothing(Defence):
    name = "nothing"

    def choose(self, pool):
        return []


class Rows(Defence):
    name = "by rows"
    needs = frozenset({"rows"})  # type: ignore[assignment]

    def choose(self, pool):
        return [0]


def outcome(build, options, examples, kind, processes):
    """Losses, weights and lines on disk of a short run of one kind."""
    subject = build()
    defences, other = KINDS[kind]
    args = options(per_device_train_batch_size=4 // processes, **(SETTINGS | other))
    trainer = GuardedTrainer(subject, args, examples[:15], defences=defences())
    trainer.train()
    if processes > 1:
        dist.barrier()  # until the main process has written
    lines = read_lines(Path(args.output_dir) / TRACE_FILE) if trainer.selection else []
    if processes > 1:
        dist.barrier()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, torch.cat([p.detach().flatten() for p in subject.model.parameters()]), lines


def work(rank, folder, port, build, options, examples):
    torch.set_num_threads(1)
    for state in (AcceleratorState, GradientState, PartialState):  # what this process was forked with
        state._reset_state()
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    results = {kind: outcome(build, options, examples, kind, 2) for kind in KINDS}
    for defence, wrong, message in (
        (Rows(), {}, "'by rows' chooses by the rows themselves, which 2 processes"),
        (OnlineSelection(), {"average_tokens_across_devices": False}, "leave it at True"),
    ):
        with pytest.raises(UserError, match=message):
            GuardedTrainer(build(), options(**wrong), examples, defences=[defence])
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(build, options, examples):
    alone = {kind: outcome(build, options, examples, kind, 1) for kind in KINDS}
    for kind in ("anchor", "by position", "tokens", "nudged"):
        assert float((alone[kind][1] - alone["plain"][1]).norm()) > 1e-4
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        # Forked: to import everything twice anew costs more than all that is tested here.
        given = (folder, port, build, options, examples)
        start_processes(work, args=given, nprocs=2, join=True, start_method="fork")
        first, second = (torch.load(Path(folder) / f"{rank}.pt") for rank in range(2))
    for kind in KINDS:
        assert_same(first[kind], second[kind], alone[kind], kind)
    assert [line["pool"] for line in alone["moderate"][2]] == [8, 7, 8]
    assert {line["kept"] for line in alone["one row"][2]} == {1}  # one of the processes has nothing to train on


def assert_same(first, second, alone, kind):
    assert torch.equal(first[1], second[1]), kind
    assert first[0] == pytest.approx(alone[0], rel=1e-4), kind
    torch.testing.assert_close(first[1], alone[1], rtol=1e-4, atol=1e-6, msg=lambda text: f"{kind}: {text}")
    assert len(first[2]) == len(alone[2])
    for line, other in zip(first[2], alone[2], strict=True):
        for key in ("step", "pool", "kept", "kept_share", "counts", "kept_tokens", "kept_ids"):
            assert line[key] == other[key], (kind, key)
        for key in ("loss_nats", "grad_norm"):
            assert line[key] == (other[key] and pytest.approx(other[key], rel=1e-4)), (kind, key)


@pytest.mark.parametrize(("how", "sharers"), [("FSDP", 1), ("DEEPSPEED", 1), ("MULTI_GPU", 2)])
def test_split_weights_and_shared_rows_are_refused(how, sharers):
    args = SimpleNamespace(world_size=4, average_tokens_across_devices=True)
    for defence in (OnlineSelection(), TokenWise()):
        with pytest.raises(UserError, match="on 4 processes needs the whole model"):
            Guards([defence], args).check_parallel(how, sharers)
        Guards([defence], args).check_parallel("MULTI_CPU", 1)
    Guards([Anchor(PROMPTS, 1.0)], args).check_parallel(how, sharers)
