"""Tiny random models of every supported architecture, and the slowest possible reference for their gradients.

Knows: transformers and PEFT configurations; one unpadded sample at a time through `.backward()`.
Does not know: holdfast's engines. The reference shares no code with them: it masks by hand and takes the loss from
the logits, never from the library.

Shapes: N samples, T time, V vocab, R rank, O out-features.
"""

import copy
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers as tf

from holdfast.data import Batch, Example, collate
from tests.gradients.families import FAMILIES

VOCAB = 211
HIDDEN = 32
LAYERS = 2
PAD = 0
FIRST_ID = 5  # ids below are special: padding, begin, end
LONGEST = 40
WINDOW = 8  # sliding attention shorter than most samples, so that it matters

IDS = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
LLAMA_LIKE = {**IDS, **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}
# At the usual scale of 0.02 experts say so little that a router's gradient is lost in the whole.
MIXTURE = {**LLAMA_LIKE, "num_experts_per_tok": 2, "output_router_logits": False, "initializer_range": 0.1}
ALTERNATING = ["sliding_attention", "full_attention"]
GEMMA = {
    **LLAMA_LIKE,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": WINDOW,
    "layer_types": ALTERNATING,
    "final_logit_softcapping": 5.0,  # random logits are small: the stock value of 30 would be nearly linear
    "attn_logit_softcapping": 5.0,
}

# name -> (configuration class, model class, configuration, switches that give every linear layer a bias)
Recipe = tuple[Any, Any, dict[str, Any], tuple[str, ...]]
RECIPES: dict[str, Recipe] = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM, LLAMA_LIKE, ("attention_bias", "mlp_bias")),
    "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM, {**LLAMA_LIKE, "tie_word_embeddings": True}, ()),
    "qwen3": (
        tf.Qwen3Config,
        tf.Qwen3ForCausalLM,
        {**LLAMA_LIKE, "head_dim": 8, "tie_word_embeddings": True},
        ("attention_bias",),
    ),
    "gemma2": (tf.Gemma2Config, tf.Gemma2ForCausalLM, GEMMA, ("attention_bias",)),
    "gemma3": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM, GEMMA, ("attention_bias",)),
    "phi3": (tf.Phi3Config, tf.Phi3ForCausalLM, LLAMA_LIKE, ()),
    "gpt2": (
        tf.GPT2Config,
        tf.GPT2LMHeadModel,
        {**IDS, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 256},
        (),
    ),
    "gpt_neox": (
        tf.GPTNeoXConfig,
        tf.GPTNeoXForCausalLM,
        {**IDS, **SIZES, "max_position_embeddings": 256},
        ("attention_bias",),
    ),
    "olmo2": (tf.Olmo2Config, tf.Olmo2ForCausalLM, LLAMA_LIKE, ("attention_bias",)),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM, {**LLAMA_LIKE, "sliding_window": WINDOW}, ()),
    "mixtral": (
        tf.MixtralConfig,
        tf.MixtralForCausalLM,
        {**MIXTURE, "num_local_experts": 4},
        (),
    ),
    "qwen3_moe": (
        tf.Qwen3MoeConfig,
        tf.Qwen3MoeForCausalLM,
        {
            **MIXTURE,
            "head_dim": 8,
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
        },
        ("attention_bias",),
    ),
    "mamba": (
        tf.MambaConfig,
        tf.MambaForCausalLM,
        {**IDS, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 4, "time_step_rank": 4},
        ("use_bias",),
    ),
}
ARCHITECTURES: tuple[str, ...] = tuple(RECIPES)
FURTHER: tuple[str, ...] = tuple(FAMILIES)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def build(
    name: str,
    *,
    tied: bool | None = None,
    bias: bool | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    spread: float = 1.0,
    **settings: Any,
) -> Any:
    """A random model in eval mode, every vector (norm weight, bias) moved off its initial value.

    Args:
        name: one of :data:`ARCHITECTURES`, or of :data:`FURTHER` (which take neither switches nor settings).
        tied: share embedding and head; None keeps the recipe.
        bias: put a bias on every linear layer the configuration can; None keeps the recipe.
        dtype: of the parameters, after they were drawn in float32.
        seed: of the weights.
        spread: factor on every matrix; larger ones make answers that differ.
        settings: further configuration fields, e.g. ``attn_implementation="eager"``.
    """
    make = FAMILIES[name] if name in FAMILIES else _from_recipe(name, tied, bias, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        perturb(model)
    if spread != 1.0:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter *= spread
    return model.to(dtype).eval()


def _from_recipe(name: str, tied: bool | None, bias: bool | None, settings: dict[str, Any]) -> Any:
    config_class, model_class, fields, switches = RECIPES[name]
    fields = {**fields, **settings}
    if tied is not None:
        fields["tie_word_embeddings"] = tied
    if bias is not None:
        if not switches:
            raise ValueError(f"{name}: its configuration has no switch for biases")
        fields.update(dict.fromkeys(switches, bias))
    return lambda: model_class(config_class(**fields))


def perturb(model: torch.nn.Module) -> None:
    """Norm weights of exactly one and biases of exactly zero hide an engine that forgets them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)


class PlainRMSNorm(torch.nn.Module):
    """An RMSNorm that computes in the model's own precision; the library's computes in float32 even in float64."""

    def __init__(self, weight: torch.nn.Parameter, variance_epsilon: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.offset = weight, variance_epsilon, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return normalised * (self.offset + self.weight)


def without_upcasts(model: Any) -> Any:
    """The same function without the float32 detours of Llama-like models; needed to see 1e-12 in float64."""
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            epsilon = getattr(module, "variance_epsilon", None)
            offset = 0.0 if epsilon is not None else 1.0  # Gemma's norms call it eps, and scale by 1 + weight
            epsilon = module.eps if epsilon is None else epsilon
            model.set_submodule(path, PlainRMSNorm(module.weight, epsilon, offset))
    return model


def padded(examples: Sequence[Example], pad_id: int = PAD, side: str = "right", extra: int = 0) -> Batch:
    """A padded batch, ``extra`` columns wider than its longest sample."""
    batch = collate(examples, pad_id, side)
    widths = (0, extra) if side == "right" else (extra, 0)
    return replace(
        batch,
        input_ids_BT=F.pad(batch.input_ids_BT, widths, value=pad_id),
        attention_mask_BT=F.pad(batch.attention_mask_BT, widths),
        completion_mask_BT=F.pad(batch.completion_mask_BT, widths),
    )


def random_examples(n: int = 9, seed: int = 0) -> list[Example]:
    """Samples of 6 to 40 tokens, each cut at a random place into prompt and response, no two equally long."""
    rng = random.Random(seed)
    examples = []
    for k, length in enumerate(rng.sample(range(6, LONGEST + 1), n)):
        ids = [rng.randrange(FIRST_ID, VOCAB) for _ in range(length)]
        cut = rng.randint(1, length - 1)
        examples.append(Example(tuple(ids[:cut]), tuple(ids[cut:]), f"sample {k}"))
    return examples


def loop_gradients(
    model: torch.nn.Module, parameters: Collection[str], examples: Sequence[Example], reduction: str = "mean"
) -> tuple[list[dict[str, torch.Tensor]], np.ndarray]:
    """Every sample's gradient by `.backward()`, alone and unpadded, on a copy; and its loss in nats."""
    model = copy.deepcopy(model).eval()
    named = dict(model.named_parameters())
    model.requires_grad_(False)
    for name in parameters:
        named[name].grad = None
        named[name].requires_grad_(True)
    gradients, losses = [], []
    for example in examples:
        loss = sample_loss(model, example, reduction)
        for name in parameters:
            named[name].grad = None
        loss.backward()
        rows = {name: named[name].grad for name in parameters}
        gradients.append({name: g if g is not None else torch.zeros_like(named[name]) for name, g in rows.items()})
        losses.append(loss.item())
    return gradients, np.array(losses)


def named(model: Any, part: str = "") -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if part in name}


@cache
def case(name: str, **settings: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Model, reference norms and losses of all its parameters on :func:`random_examples`.

    Shared between tests, since scoring leaves a model as it was; a test that changes the model takes a copy.
    """
    model = build(name, **settings)
    return model, *loop_reference(model, named(model), random_examples())


@cache
def case_gradients(name: str) -> list[dict[str, torch.Tensor]]:
    """What the norms of :func:`case` are the norms of."""
    model = case(name)[0]
    return loop_gradients(model, list(named(model)), random_examples())[0]


def sample_loss(model: Any, example: Example, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of the response tokens of one unpadded sample, from the logits."""
    ids_T = torch.tensor([*example.prompt_ids, *example.completion_ids])
    carries_T = torch.tensor(example.loss_mask)
    logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0]
    if logits_TV.dtype != torch.float64:
        logits_TV = logits_TV.float()
    predicted_T = carries_T[1:]
    return F.cross_entropy(logits_TV[:-1][predicted_T], ids_T[1:][predicted_T], reduction=reduction)


def loop_reference(
    model: torch.nn.Module, parameters: Collection[str], examples: Sequence[Example], reduction: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    """Per-sample gradient norms, accumulated in float64, and losses in nats: what every engine is held to.

    Args:
        model: left untouched; a copy does the work.
        parameters: names of the parameters in scope (a dictionary's keys will do).
        examples: each with at least one response token.
        reduction: a sample's loss is the mean over its response tokens or their sum.
    """
    gradients, losses = loop_gradients(model, list(parameters), examples, reduction)
    norms = [sum(float(g.double().square().sum()) for g in sample.values()) ** 0.5 for sample in gradients]
    return np.array(norms), losses


def relative_error(actual: Any, expected: Any) -> float:
    """The largest relative deviation; infinite where a number is missing."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    error = np.abs(actual / expected - 1)
    return float(np.where(np.isfinite(error), error, np.inf).max())


def with_lora(
    model: Any,
    variant: str = "lora",
    trained: bool = True,
    *,
    rank: int = 4,
    targets: str | list[str] = "all-linear",
    seed: int = 0,
    **settings: Any,
) -> Any:
    """The model with a PEFT adapter on every linear layer but the head; ``trained`` moves B off zero.

    Args:
        model: wrapped in place.
        variant: "lora", "rslora" (scale alpha / sqrt(rank)) or "dora" (a magnitude vector a layer).
        trained: False leaves B = 0, where A has no gradient.
        rank, targets, seed: of the adapter.
        settings: further fields of ``LoraConfig``, e.g. ``modules_to_save``.
    """
    from peft import LoraConfig, get_peft_model

    if variant not in ("lora", "rslora", "dora"):
        raise ValueError(f"variant '{variant}': use lora, rslora or dora")
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
        fan_in_fan_out=getattr(model.config, "model_type", "") == "gpt2",
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        if trained:
            move_adapter(wrapped)
    return wrapped.eval()


def move_adapter(model: torch.nn.Module) -> None:
    """Give B (and DoRA's magnitudes) the values of a trained adapter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.copy_(0.05 * torch.randn_like(parameter))
            elif "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.05 * torch.randn_like(parameter))


def adapter_names(model: torch.nn.Module) -> list[str]:
    """Names of the parameters of a PEFT adapter."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" in name]


def kinds_of(model: torch.nn.Module) -> dict[str, list[str]]:
    """Parameter names by the kind of layer that owns them: class name and, for vectors, weight or bias."""
    kinds: dict[str, list[str]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kinds.setdefault(f"{type(module).__name__}.{name}", []).append(f"{path}.{name}" if path else name)
    return kinds


def hooked_state(model: torch.nn.Module) -> list[tuple[Any, ...]]:
    """All that an engine could leave behind on a module: hooks, replaced forwards, modes, classes."""
    state: list[tuple[Any, ...]] = []
    for module in model.modules():
        state.append(
            (
                type(module),
                module.training,
                module.__dict__.get("forward"),
                type(module).forward,
                tuple(tuple(getattr(module, hooks)) for hooks in HOOKS),
                tuple(sorted(key for key in module.__dict__ if not key.startswith("_"))),
                tuple((name, id(p), p.requires_grad) for name, p in module.named_parameters(recurse=False)),
            )
        )
    return state
