"""Models small enough to rebuild in every test run, with no file and no network."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HOLDFAST_QUIET", "1")

import pytest
import torch

SHARED_DATA = Path(os.environ.get("HOLDFAST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "please add two and three",
    "sure , the sum is five .",
    "sorry , i cannot help with that request .",
    "name a colour , an animal and a fruit",
] * 8


def build_tokenizer(vocab_size: int = 400, template: str | None = CHAT_TEMPLATE):
    """A byte-level BPE tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|eos|>"],
        model_max_length=512,
    )
    tokenizer.chat_template = template
    return tokenizer


def build_llama(vocab_size: int, hidden: int = 32, layers: int = 2, seed: int = 0, tie: bool = False):
    """A random Llama whose norm weights are perturbed, so that an engine that forgets them is caught."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=tie,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=4,
            )
        )
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pytest_configure():
    gc.disable()  # until the tests begin: imports make a million objects and no garbage


def pytest_collection_finish():
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Every trainer collects garbage when it begins; what was imported before is left out of that."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return build_tokenizer()


@pytest.fixture
def tiny_model(tiny_tokenizer):
    return build_llama(len(tiny_tokenizer))


@pytest.fixture
def tiny_subject(tiny_model, tiny_tokenizer):
    from holdfast.models import Subject

    return Subject(tiny_model, tiny_tokenizer)


@pytest.fixture
def lora_subject(tiny_model, tiny_tokenizer):
    """A tiny model with a *trained-looking* adapter (B is not zero)."""
    from holdfast.models import Subject, add_lora, lora_pairs

    model = add_lora(tiny_model, rank=2, alpha=4, seed=0)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for _, b_OR, _ in lora_pairs(model).values():
            b_OR.copy_(0.05 * torch.randn_like(b_OR))
    return Subject(model, tiny_tokenizer, "adapter")


@pytest.fixture
def tiny_examples(tiny_tokenizer):
    """Nine rows of different lengths."""
    from holdfast.data import encode_rows

    words = ["please", "add", "two", "and", "three", "sorry", "i", "cannot", "help", "name", "a", "colour"]
    rows = [
        {"prompt": " ".join(words[: 2 + k % 4]), "completion": " ".join(words[k % 5 : k % 5 + 1 + k])}
        for k in range(9)
    ]
    return encode_rows(rows, tiny_tokenizer)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return SHARED_DATA


def pytest_collection_modifyitems(items):
    # Files with slow tests first: the process that is handed one of them last keeps the others waiting.
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if SHARED_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="the licensed prompt lists are not beside this checkout")
    for item in items:
        if "shared_data" in item.keywords:
            item.add_marker(skip)
