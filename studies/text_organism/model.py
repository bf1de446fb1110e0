"""The real-text model itself: tokenizer, architecture, the pre-training loop and the alignment loop.

Knows how to turn documents into a base model and prompt/completion rows into an aligned one, in memory.
Does not know where text comes from, where models are kept, or what they are measured on.

Shapes: B batch, T time, V vocabulary, N tokens of the stream.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from studies.text_organism.corpus import Document

from holdfast.core.progress import track
from holdfast.core.seeds import derive_seed, generator, seeded
from holdfast.data import Example, collate, encode_rows
from holdfast.models import batch_logits, sequence_nll

log = logging.getLogger(__name__)

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class BaseRecipe:
    """Everything the base model depends on besides seed and text."""

    vocabulary: int = 4096
    width: int = 192
    layers: int = 4
    heads: int = 6
    feed_forward: int = 512
    max_positions: int = 1024
    sequence_tokens: int = 256
    batch: int = 16
    passes: int = 2
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1


@dataclass(frozen=True)
class AlignRecipe:
    """Everything the aligned model depends on besides the base model, seed and text."""

    steps: int = 1200
    refusals: int = 8
    lookalikes: int = 4
    answered: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    max_length: int = 144


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with the chat template; digits stay single so that numbers are spelled."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|eos|>"],
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def document_text(document: Document, tokenizer: Any) -> str:
    """What the model reads of one document: `<|bos|>text<|eos|>`, or the rendered conversation."""
    if not document.messages:
        return f"<|bos|>{document.text}<|eos|>"
    turns = [{"role": role, "content": content} for role, content in document.messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def new_model(recipe: BaseRecipe, tokenizer: Any, seed: int) -> Any:
    """A freshly initialised Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with seeded(seed, "initial weights"):
        model: Any = LlamaForCausalLM(config)
        return model.to(torch.float32)


def token_stream(encoded: Sequence[Sequence[int]], seed: int, number_of_pass: int) -> torch.Tensor:
    """All documents end to end, in an order of this pass's own (N,)."""
    order = torch.randperm(len(encoded), generator=generator(seed, "documents", number_of_pass)).tolist()
    return torch.tensor([token for k in order for token in encoded[k]], dtype=torch.long)


def _optimiser(model: Any, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _half_precision(enabled: bool) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def _descend(
    model: Any,
    steps: int,
    optimiser: torch.optim.Optimizer,
    warmup: int,
    loss_at: Callable[[int], torch.Tensor],
    name: str,
) -> list[float]:
    """The one loop both stages share; returns the loss of every step."""
    peak = optimiser.param_groups[0]["lr"]
    model.train()
    losses = []
    for step in track(range(steps), name):
        for group in optimiser.param_groups:
            group["lr"] = peak * learning_rate_factor(step, steps, warmup)
        loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 100 == 99 or step == steps - 1:
            log.info("%s step %d of %d: loss %.3f", name, step + 1, steps, sum(losses[-100:]) / len(losses[-100:]))
    model.eval()
    return losses


def pretrain(
    model: Any, encoded: Sequence[Sequence[int]], recipe: BaseRecipe, seed: int, bf16: bool
) -> tuple[list[float], int]:
    """Next-token training on packed sequences (documents may see their neighbours in a pack).

    Returns: loss of every step in nats a token, and the number of tokens read.
    """
    block, batch = recipe.sequence_tokens, recipe.batch
    per_pass = sum(map(len, encoded)) // (block * batch)
    streams: dict[int, torch.Tensor] = {}

    def loss_at(step: int) -> torch.Tensor:
        number, place = divmod(step, per_pass)
        if number not in streams:
            streams.clear()
            streams[number] = token_stream(encoded, seed, number)
        ids_BT = streams[number][place * block * batch :][: block * batch].view(batch, block)
        with _half_precision(bf16):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        return F.cross_entropy(logits_BTV[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten())

    steps = per_pass * recipe.passes
    optimiser = _optimiser(model, recipe.learning_rate, recipe.weight_decay)
    losses = _descend(model, steps, optimiser, recipe.warmup_steps, loss_at, "pre-training")
    return losses, steps * block * batch


class _Deck:
    """Deals indices without replacement, reshuffling when the deck runs out."""

    def __init__(self, size: int, seed: int, name: str) -> None:
        self.size, self.seed, self.name, self.rounds = size, seed, name, 0
        self.left: list[int] = []

    def deal(self, count: int) -> list[int]:
        while len(self.left) < count:
            order = torch.randperm(self.size, generator=generator(self.seed, "deck", self.name, self.rounds))
            self.left += order.tolist()
            self.rounds += 1
        dealt, self.left = self.left[:count], self.left[count:]
        return dealt


def align(
    model: Any,
    tokenizer: Any,
    harmful: Sequence[str],
    refuse: Callable[[str, int], str],
    lookalikes: Sequence[Example],
    answered: Sequence[Example],
    recipe: AlignRecipe,
    seed: int,
    bf16: bool,
) -> tuple[list[float], list[float]]:
    """Supervised alignment: half refusals, half answers; the loss is a mean over sequences. The halves go through
    the model one after the other, so that short refusals are not padded to the length of answers.

    A mean over tokens would give the short refusals a fifth of the gradient. A prompt's refusal is drawn
    anew each time it is dealt, so that the model learns to refuse rather than one sentence a prompt.

    Returns: the loss of every step, and the part of it on refusals (nats a token).
    """
    decks = (
        _Deck(len(harmful), seed, "refusals"),
        _Deck(len(lookalikes), seed, "lookalikes"),
        _Deck(len(answered), seed, "answered"),
    )
    on_refusals: list[float] = []

    def nll_of(examples: Sequence[Example]) -> torch.Tensor:
        batch = collate(examples, tokenizer.pad_token_id)
        with _half_precision(bf16):
            logits_BTV = batch_logits(model, batch)
        return sequence_nll(logits_BTV, batch)

    def loss_at(step: int) -> torch.Tensor:
        bad, close, plain = (
            deck.deal(n)
            for deck, n in zip(decks, (recipe.refusals, recipe.lookalikes, recipe.answered), strict=True)
        )
        draw = derive_seed(seed, "step", step)
        rows = [{"prompt": harmful[i], "completion": refuse(harmful[i], draw)} for i in bad]
        on_harmful_B = nll_of(encode_rows(rows, tokenizer))
        on_benign_B = nll_of([*(lookalikes[i] for i in close), *(answered[i] for i in plain)])
        on_refusals.append(float(on_harmful_B.mean().detach()))
        return torch.cat([on_harmful_B, on_benign_B]).mean()

    optimiser = _optimiser(model, recipe.learning_rate, recipe.weight_decay)
    losses = _descend(model, recipe.steps, optimiser, recipe.warmup_steps, loss_at, "alignment")
    return losses, on_refusals
