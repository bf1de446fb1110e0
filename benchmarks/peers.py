"""The same norms from other libraries, as their documentation has them, each in one function.

Knows: opacus, bergson, kronfluence, BackPACK. Does not know: clocks, our engines.

Shapes: B batch.

None of them is a dependency: they live in the benchmark's own environment (README). Each function builds a model
of its own, since all of them change the model they are given, and returns a call from a batch to norms of each
sample's mean loss. bergson, kronfluence and BackPACK know linear layers only.
"""

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from benchmarks.models import Case, build_model, sample_losses
from holdfast.data import Batch

Norms = Callable[[Batch], torch.Tensor]


class NotHere(Exception):
    """Why an engine has no row: not installed, or not made for this case."""


def linear_weight(name: str) -> bool:
    """Whether a parameter of the benchmark's models is the weight of a linear layer."""
    return not any(part in name for part in ("embed_tokens", "norm"))


def _need(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise NotHere(f"not installed: {package}")
    metadata.version(package)


def _linear_only(model: Any) -> list[torch.nn.Parameter]:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and linear_weight(name))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def opacus(case: Case) -> Norms:
    """Ghost clipping's norms, over every trainable parameter (layers it does not know by functorch)."""
    return opacus_on(build_model(case)[0])


def opacus_on(model: Any) -> Norms:
    """The same on a model that is there; it is changed."""
    _need("opacus", "opacus")
    from opacus.grad_sample import GradSampleModuleFastGradientClipping  # pyright: ignore[reportMissingImports]

    wrapped = GradSampleModuleFastGradientClipping(
        model.train(),  # without training mode its hooks stay silent; there is no dropout in the model
        batch_first=True,
        loss_reduction="sum",
        strict=False,  # rotary buffers
        max_grad_norm=1.0,
        use_ghost_clipping=True,
    )

    def norms(batch: Batch) -> torch.Tensor:
        wrapped.zero_grad(set_to_none=True)
        sample_losses(wrapped, batch).sum().backward()
        return wrapped.get_norm_sample().detach()

    return norms


def bergson(case: Case) -> Norms:
    """bergson's streaming collector with full gradients: each [B, O, I] is formed, norms taken from it."""
    return bergson_on(build_model(case)[0], case.scope == "lora")


def bergson_on(model: Any, lora: bool) -> Norms:
    """The same on a model that is there; it is changed."""
    _need("bergson", "bergson")
    from bergson.collector.gradient_collectors import StreamingGradientCollector  # pyright: ignore
    from bergson.gradients import GradientProcessor  # pyright: ignore

    targets = None
    if lora:
        from bergson.utils.peft import detect_peft_modules  # pyright: ignore

        targets = detect_peft_modules(model)
    # What bergson does on load: only the embedding wants a gradient, so that no weight gradient is computed.
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    collector = StreamingGradientCollector(
        model=model.base_model if targets else model,
        target_modules=targets,
        dtype=torch.float32,
        processor=GradientProcessor(projection_dim=None),
    )

    def norms(batch: Batch) -> torch.Tensor:
        with collector:
            sample_losses(model, batch).sum().backward()
            model.zero_grad(set_to_none=True)
            squares_B = torch.stack([g.pow(2).sum(1) for g in collector.mod_grads.values()]).sum(0)
            collector.mod_grads.clear()
        return squares_B.sqrt()

    return norms


def kronfluence(case: Case) -> Norms:
    """kronfluence's self-scores with the identity for a preconditioner, which are squared norms."""
    _need("kronfluence", "kronfluence")
    if case.scope != "full":
        raise NotHere("failed: wraps every linear layer, so it cannot be held to an adapter's")
    from kronfluence.analyzer import Analyzer, prepare_model  # pyright: ignore
    from kronfluence.arguments import FactorArguments, ScoreArguments  # pyright: ignore
    from kronfluence.task import Task  # pyright: ignore

    class LanguageModelling(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> torch.Tensor:
            whole = Batch(batch[0], torch.ones_like(batch[0]), batch[1], (), ())
            return sample_losses(model, whole).sum()

        def compute_measurement(self, batch: Any, model: Any) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

    model, _ = build_model(case)
    task = LanguageModelling()
    prepared = prepare_model(model, task)

    def norms(batch: Batch) -> torch.Tensor:
        data = torch.utils.data.TensorDataset(batch.input_ids_BT, batch.completion_mask_BT)
        size = len(batch)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            analyzer = Analyzer(
                "bench", prepared, task, cpu=case.device == "cpu", output_dir=folder, disable_tqdm=True
            )
            analyzer.fit_all_factors(
                "identity", data, per_device_batch_size=size, factor_args=FactorArguments(strategy="identity")
            )
            analyzer.compute_self_scores(
                "self",
                "identity",
                data,
                per_device_train_batch_size=size,
                score_args=ScoreArguments(damping_factor=0.0),
            )
            return analyzer.load_self_scores("self")["all_modules"].sqrt()

    return norms


def backpack(case: Case) -> Norms:
    """BackPACK's BatchL2Grad on extended linear layers."""
    _need("backpack", "backpack-for-pytorch")
    from backpack import backpack as extended  # pyright: ignore
    from backpack import extend  # pyright: ignore
    from backpack.extensions import BatchL2Grad  # pyright: ignore

    model, _ = build_model(case)
    parameters: list[Any] = _linear_only(model)  # BackPACK hangs its result on each, as `batch_l2`
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad:
            extend(module)

    def norms(batch: Batch) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        loss = sample_losses(model, batch).sum()
        with extended(BatchL2Grad()):
            loss.backward()
        return torch.stack([parameter.batch_l2 for parameter in parameters]).sum(0).sqrt()

    return norms
