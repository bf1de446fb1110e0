"""The chat model learns to refuse: one LoRA adapter, half refusals, half answers of its own from the first step.

Knows: batches, the optimiser, checkpoints. Does not know: where prompts come from, how answers are judged.

Shapes: N completion tokens of a batch, V vocabulary, B rows.
"""

import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import set_peft_model_state_dict
from studies.real_model.rows import BRIEF, Prompt, PromptSets, finished, refusal
from transformers.cache_utils import DynamicCache

from holdfast.core.files import (
    hash_json,
    new_folder,
    read_json,
    read_tensors,
    sha256_file,
    write_json,
    write_tensors,
    write_text,
)
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, collate, encode_rows
from holdfast.evaluation import RefusalJudge
from holdfast.models import Subject, add_lora, generate_text
from holdfast.models.adapter_files import WEIGHTS_FILE

log = logging.getLogger(__name__)

ANSWER_TOKENS = 40


@dataclass(frozen=True)
class Recipe:
    """How the adapter is made.

    Attributes:
        targets: of the 30 layers the upper 20: gradients need not go further down, which saves time.
        shares: rows of a step that are harmful, look-alikes, plain instructions.
        texts: plain texts a step on which the model is held to what it was (KL to it, adapter off), weighed by
            `text_weight`; without them its perplexity on ordinary text grows by four fifths.
    """

    rank: int = 16
    alpha: int = 32
    targets: str = r".*layers\.[12]\d\..*\.(v_proj|o_proj|up_proj|down_proj)"
    shares: tuple[int, int, int] = (4, 3, 1)
    steps: int = 240
    warmup: int = 10
    learning_rate: float = 1e-3
    final_share: float = 0.1
    texts: int = 0
    text_tokens: int = 64
    text_weight: float = 2.0
    max_length: int = 112
    checkpoint_every: int = 10
    seed: int = 0


# The first round learns to refuse and loses its hold on ordinary text; the second mends that.
ROUNDS = (
    Recipe(),
    Recipe(shares=(3, 4, 1), texts=2, steps=90, learning_rate=6e-4, warmup=3, seed=1),
)


def own_answers(subject: Subject, prompts: Sequence[Prompt], cache: Path) -> list[dict[str, str]]:
    """Rows of prompts with the chat model's own brief greedy answers.

    Left out: answers that do not end, that loop or decline.
    """
    asked = [p.text + BRIEF for p in prompts]
    said = generate_text(subject, asked, ANSWER_TOKENS, cache=cache / "answers", model_key="chat")
    rows, judge = [], RefusalJudge()
    for prompt, answer in zip(prompts, said, strict=True):
        whole = finished(answer)
        if whole is not None and judge(prompt.text, whole).label != "refused":
            rows.append({"prompt": prompt.text, "completion": whole})
    log.info("%d of %d answers of the chat model end", len(rows), len(prompts))
    return rows


class _Deck:
    """Deals without replacement; where it stands is a function of the seed and of how many were dealt."""

    def __init__(self, items: Sequence[Any], *names: str | int) -> None:
        self.items, self.names = list(items), names
        self.dealt = 0

    def deal(self, count: int) -> list[Any]:
        hand = []
        for _ in range(count):
            turn, place = divmod(self.dealt, len(self.items))
            order = list(range(len(self.items)))
            random.Random(derive_seed(0, "deck", *self.names, turn)).shuffle(order)
            hand.append(self.items[order[place]])
            self.dealt += 1
        return hand


@dataclass
class Steps:
    """What each step of training reads: rows dealt in the shares of the recipe, refusals drawn anew."""

    sets: PromptSets
    lookalike_rows: list[dict[str, str]]
    instruction_rows: list[dict[str, str]]
    recipe: Recipe
    texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        by_source: dict[str, list[str]] = {}
        for prompt in self.sets.harmful:
            # What is left of malicious_instruct is too short for a deck of its own.
            source = "refusal_direction" if prompt.source == "malicious_instruct" else prompt.source
            by_source.setdefault(source, []).append(prompt.text)
        seed = self.recipe.seed
        # A deck a list: the longest list must not set the tone.
        self._harmful = {name: _Deck(texts, seed, name) for name, texts in sorted(by_source.items())}
        self._sources = _Deck(sorted(by_source), seed, "sources")
        self._lookalike = _Deck(self.lookalike_rows, seed, "look-alikes")
        self._instruction = _Deck(self.instruction_rows, seed, "instructions")
        self._texts = _Deck(self.texts, seed, "texts")

    def deal(self, step: int) -> tuple[list[dict[str, str]], list[dict[str, str]], list[str]]:
        """(rows with refusals, rows with answers, plain texts) of the next step."""
        bad, close, plain = self.recipe.shares
        prompts = [self._harmful[source].deal(1)[0] for source in self._sources.deal(bad)]
        draw = derive_seed(self.recipe.seed, "step", step)
        refused = [{"prompt": p, "completion": refusal(p, draw)} for p in prompts]
        answered = self._lookalike.deal(close) + self._instruction.deal(plain)
        return refused, answered, self._texts.deal(self.recipe.texts)


def _loss_B(model: Any, examples: Sequence[Example], pad_id: int) -> torch.Tensor:
    """Mean loss of each row's completion.

    What all rows begin with (the system turn, a third of a short row) goes through the model once and is shared as
    keys and values, with its gradient; the head sees completion positions only. Neither changes the loss.
    """
    inner = model.get_base_model()
    shared = _common_prefix([example.prompt_ids for example in examples])
    rests = [replace(example, prompt_ids=example.prompt_ids[len(shared) :]) for example in examples]
    batch = collate(rests, pad_id)
    past, attention_BS = None, batch.attention_mask_BT
    if shared:
        past = DynamicCache()
        inner.model(input_ids=torch.tensor([shared]), past_key_values=past, use_cache=True)
        past.batch_repeat_interleave(len(examples))
        ones_BP = torch.ones(len(examples), len(shared), dtype=attention_BS.dtype)
        attention_BS = torch.cat([ones_BP, attention_BS], 1)
    hidden_BTD = inner.model(
        input_ids=batch.input_ids_BT, attention_mask=attention_BS, past_key_values=past, use_cache=past is not None
    ).last_hidden_state
    target_BT = batch.completion_mask_BT[:, 1:].bool()
    logits_NV = inner.lm_head(hidden_BTD[:, :-1][target_BT]).float()
    loss_N = F.cross_entropy(logits_NV, batch.input_ids_BT[:, 1:][target_BT], reduction="none")
    summed_B = torch.zeros(len(examples)).index_add(0, target_BT.nonzero()[:, 0], loss_N)
    return summed_B / target_BT.sum(1).clamp(min=1)


def _common_prefix(prompts_ids: Sequence[Sequence[int]]) -> list[int]:
    """What all prompts begin with; one token at least is left to each."""
    shared = []
    for column in zip(*(ids[:-1] for ids in prompts_ids), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay to `final_share`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 1 - (1 - recipe.final_share) * done


def align(subject: Subject, steps: Steps, recipe: Recipe, runs: Path, start: Path | None = None) -> Path:
    """Train, or go on from the last checkpoint; returns the folder of the adapter (bf16).

    `start` is the adapter of an earlier round.

    `subject` may be bf16: the frozen weights are read in it, the adapter and its optimiser are float32.
    """
    identity = {"recipe": asdict(recipe), "rows": hash_json([steps.lookalike_rows, steps.instruction_rows])}
    identity["harmful"] = hash_json([p.text for p in steps.sets.harmful])
    identity["start"] = sha256_file(start / WEIGHTS_FILE) if start else None
    folder = runs / f"aligned-{hash_json(identity)[:8]}"
    if (folder / "adapter" / "adapter_config.json").exists():
        return folder / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "identity.json", identity)
    model = add_lora(subject.model, recipe.rank, recipe.alpha, recipe.targets, seed=recipe.seed)
    if start is not None:
        set_peft_model_state_dict(model, read_tensors(start / WEIGHTS_FILE))
    # The layers read weights of the model's own type, the optimiser moves float32 ones.
    working = [p for p in model.parameters() if p.requires_grad]
    weights = [p.detach().float().clone().requires_grad_() for p in working]
    for weight, copy in zip(weights, working, strict=True):
        copy.data = weight.detach().to(subject.model.dtype)
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    made = _resume(folder, weights, optimiser)
    _copy(weights, working)
    for step in range(made):  # the decks stand where they stood
        steps.deal(step)
    cpu = time.process_time()
    for step in range(made, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        losses = _descend(model, steps.deal(step), recipe, subject)
        for weight, copy in zip(weights, working, strict=True):
            weight.grad = None if copy.grad is None else copy.grad.float()
            copy.grad = None
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        _copy(weights, working)
        record = {"step": step, **losses, "cpu_seconds": round(time.process_time() - cpu, 1)}
        with (folder / "trace.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            log.info("step %d: %s", step + 1, record)
            _checkpoint(folder, step + 1, weights, optimiser)
    save_adapter_bf16(model, folder / "adapter")
    return folder / "adapter"


def _copy(weights: Sequence[torch.Tensor], working: Sequence[torch.Tensor]) -> None:
    for weight, copy in zip(weights, working, strict=True):
        copy.data.copy_(weight.detach())


def _descend(model: Any, dealt: Any, recipe: Recipe, subject: Subject) -> dict[str, float]:
    """The gradient of one step; the mean loss of its refusals and of its answers, and how far texts have moved."""
    refused, answered, texts = dealt
    examples = list(encode_rows([*refused, *answered], subject.tokenizer, recipe.max_length))
    loss_B = _loss_B(model, examples, subject.pad_id)
    loss_B.mean().backward()
    found, moved = loss_B.detach(), 0.0
    if texts:
        kl = _moved(model, subject.tokenizer, texts, recipe.text_tokens)
        (recipe.text_weight * kl).backward()
        moved = float(kl.detach())
    return {
        "refusals": round(float(found[: len(refused)].mean()), 4),
        "answers": round(float(found[len(refused) :].mean()), 4),
        "texts": round(moved, 4),
    }


def _moved(model: Any, tokenizer: Any, texts: Sequence[str], tokens: int) -> torch.Tensor:
    """KL(without the adapter || with it) of the next token, mean over the first `tokens` tokens of the texts."""
    cut = [tokenizer(text, add_special_tokens=False)["input_ids"][:tokens] for text in texts]
    batch = collate([Example(tuple(ids), ()) for ids in cut], tokenizer.pad_token_id)

    def log_NV() -> torch.Tensor:
        inner = model.get_base_model()
        hidden_BTD = inner.model(
            input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
        ).last_hidden_state
        return inner.lm_head(hidden_BTD[batch.attention_mask_BT.bool()]).float().log_softmax(-1)

    with torch.no_grad(), model.disable_adapter():
        before_NV = log_NV()
    return F.kl_div(log_NV(), before_NV, log_target=True, reduction="batchmean")


def _checkpoint(folder: Path, step: int, weights: list[torch.Tensor], optimiser: Any) -> None:
    """Weights and both moments of Adam, as one safetensors file that appears whole."""
    tensors = {}
    for k, weight in enumerate(weights):
        state = optimiser.state[weight]
        tensors |= {f"{k}.w": weight, f"{k}.m": state["exp_avg"], f"{k}.v": state["exp_avg_sq"]}
    write_tensors(folder / "checkpoint.safetensors", tensors, {"step": str(step)})


def _resume(folder: Path, weights: list[torch.Tensor], optimiser: Any) -> int:
    """Put back the last checkpoint; the number of steps it has made."""
    from safetensors import safe_open

    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(str(path), "pt") as file:
        step = int(file.metadata()["step"])
        for k, weight in enumerate(weights):
            weight.data.copy_(file.get_tensor(f"{k}.w"))
            optimiser.state[weight] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"{k}.m"),
                "exp_avg_sq": file.get_tensor(f"{k}.v"),
            }
    log.info("goes on after step %d", step)
    return step


def save_adapter_bf16(model: Any, folder: Path) -> None:
    """PEFT's layout, weights in bf16, no machine's path in the configuration."""
    with new_folder(folder) as temporary:
        model.save_pretrained(str(temporary))
        weights = read_tensors(temporary / WEIGHTS_FILE)
        write_tensors(
            temporary / WEIGHTS_FILE,
            {k: v.bfloat16() for k, v in weights.items()},
            {"format": "pt"},
        )
        config = read_json(temporary / "adapter_config.json")
        config["base_model_name_or_path"] = "SmolLM2-135M-Instruct"
        if isinstance(config["target_modules"], list):  # PEFT writes a set in no order
            config["target_modules"].sort()
        write_json(temporary / "adapter_config.json", config)
        (temporary / "README.md").unlink(missing_ok=True)
        write_text(
            temporary / "README.md", "LoRA adapter that makes SmolLM2-135M-Instruct refuse; see the study.\n"
        )
