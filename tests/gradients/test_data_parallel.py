"""Scoring inside data-parallel training: two gloo processes against one, and the step that follows the scoring.

Knows: torch.distributed on the CPU. Every process scores its own shard; nothing is exchanged while scoring.
"""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from holdfast.gradients import GhostEngine, one_pass
from tests.gradients.zoo import (
    adapter_names,
    build,
    loop_gradients,
    loop_reference,
    padded,
    random_examples,
    relative_error,
    sample_loss,
    with_lora,
)

TOLERANCE = 1e-5
WORLD = 2
KINDS = ("llama", "qwen2", "lora", "checkpointed")
EXAMPLES = random_examples(8)


def model_of(kind: str) -> Any:
    if kind == "lora":
        return with_lora(build("llama"))
    return build("qwen2" if kind == "qwen2" else "llama")


def scope_of(model: Any) -> dict[str, torch.nn.Parameter]:
    wanted = adapter_names(model) or [name for name, _ in model.named_parameters()]
    return {name: parameter for name, parameter in model.named_parameters() if name in wanted}


def work(rank: int, folder: str) -> None:
    """One process: score its shard, then take an ordinary data-parallel step; for every kind of model."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    results = {}
    for kind in KINDS:
        model = model_of(kind)
        ddp = DistributedDataParallel(model)
        if kind == "checkpointed":
            model.train()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        mine = EXAMPLES[rank::WORLD]
        engine = GhostEngine(ddp.module, scope_of(ddp.module), strict=True)
        norms = [engine.norms(padded(mine)).norm_N for _ in range(2)]
        one = one_pass(engine, padded(mine), lambda loss_N, *_: range(len(loss_N)))
        untouched = all(parameter.grad is None for parameter in model.parameters())
        gradients = []
        for _ in range(2):  # the second step shows whether the reducer was left in order
            ddp.zero_grad(set_to_none=True)
            torch.stack([sample_loss(ddp, example) for example in mine[:1]]).mean().backward()
            gradients.append({name: p.grad.clone() for name, p in scope_of(model).items() if p.grad is not None})
            engine.norms(padded(mine))
        results[kind] = (norms, one.norms.norm_N, untouched, gradients)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results():
    with tempfile.TemporaryDirectory() as folder:
        # Forked, for two processes that import everything anew cost more than all that is tested here.
        start_processes(work, args=(folder,), nprocs=WORLD, join=True, start_method="fork")
        yield [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_norms_of_one(results, kind):
    model = model_of(kind)
    norms, _ = loop_reference(model, scope_of(model), EXAMPLES)
    alone = GhostEngine(model, scope_of(model)).norms(padded(EXAMPLES)).norm_N
    for rank, result in enumerate(results):
        first, second = result[kind][0]
        assert torch.equal(first, second)
        assert relative_error(first, norms[rank::WORLD]) < TOLERANCE
        assert relative_error(first, alone[rank::WORLD]) < TOLERANCE
        assert relative_error(result[kind][1], norms[rank::WORLD]) < TOLERANCE
        assert result[kind][2], "scoring left something in .grad"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_data_parallel_gradient_is_that_of_one_process(results, kind):
    model = model_of(kind)
    rows, _ = loop_gradients(model, list(scope_of(model)), EXAMPLES[:WORLD])  # each process trains on one sample
    for result in results:
        for gradients in result[kind][3]:
            assert set(gradients) == set(rows[0])
            for name, gradient in gradients.items():
                mean = torch.stack([row[name] for row in rows]).mean(0)
                assert float((gradient - mean).norm()) <= TOLERANCE * float(mean.norm()) + 1e-9, name
    for name, gradient in results[0][kind][3][0].items():
        assert torch.equal(gradient, results[1][kind][3][0][name])
