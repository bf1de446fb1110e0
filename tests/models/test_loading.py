"""What a person brings is loaded, or refused in one clear line."""

import json
import logging
import shutil

import peft
import pytest
import torch

import holdfast
from holdfast.core.errors import UserError
from holdfast.data import encode_prompt
from holdfast.models import Subject, adapter_off, add_lora, generate, load, load_adapter, save_adapter
from holdfast.organism import shipped
from tests.conftest import CHAT_TEMPLATE, build_llama, build_tokenizer
from tests.gradients.zoo import build

OTHER = CHAT_TEMPLATE.replace("assistant\\n", "model\\n")


@pytest.fixture
def folder(tiny_tokenizer, tmp_path):
    build_llama(len(tiny_tokenizer)).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(source, match, **options):
    with pytest.raises(UserError, match=match) as error:
        load(source, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def test_the_built_in_models_load_by_their_names():
    subject = holdfast.load("organism:aligned", device="cpu")
    assert torch.equal(subject.model.lm_head.weight, load(shipped("aligned"), device="cpu").model.lm_head.weight)
    refused("organism:best", "organism:aligned and organism:base")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "mps", "cpu:x", "meta"])
def test_a_device_that_is_not_there_is_said(device, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(folder, f"device '{device}'", device=device)


def test_a_gpu_beyond_those_there_are_is_said(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused(folder, r"cuda:7.*has 2 GPU", device="cuda:7")


def test_damaged_folders_are_said_in_one_line(folder, tiny_model):
    def broken(change):
        copy = folder.parent / "broken"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        return copy

    weights = "model.safetensors"
    whole = (folder / weights).read_bytes()
    refused(broken(lambda f: (f / "config.json").unlink()), r"no config\.json")
    refused(broken(lambda f: (f / "config.json").write_text("{")), r"config\.json: not readable")
    refused(broken(lambda f: (f / "config.json").write_text('{"model_type": "new"}')), "could not be loaded")
    refused(broken(lambda f: (f / weights).write_bytes(whole[:-100])), "damaged or half downloaded")
    refused(broken(lambda f: (f / weights).write_bytes(b"version https://git-lfs")), "damaged or half downloaded")
    refused(broken(lambda f: (f / weights).unlink()), "no weights in this folder")
    refused(broken(lambda f: (f / weights).rename(f / "pytorch_model.bin")), "pickled.*safetensors only")
    refused(broken(lambda f: [p.unlink() for p in f.glob("*token*")]), "no tokenizer in this folder")
    refused(broken(lambda f: (f / "tokenizer.json").write_text("{}")), "its tokenizer could not be loaded")
    refused(broken(lambda f: (f / weights).rename(f / "model-00001-of-00002.safetensors")), "without model.safe")
    refused(folder / weights, "a model is a folder")
    sharded = folder.parent / "sharded"
    tiny_model.save_pretrained(sharded, max_shard_size="20KB")
    shutil.copy(folder / "tokenizer.json", sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    shards[-1].unlink()
    refused(sharded, f"1 of {len(shards)} weight files are missing")


def test_weights_that_would_be_random_are_refused(folder):
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    del kept["model.layers.1.mlp.up_proj.weight"]
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"1 weights are missing.*layers\.1\.mlp\.up_proj")


def test_quantisation_without_its_package_is_said(folder, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(folder, "needs the package bitsandbytes", quantize="4bit")
    refused(folder, "quantize '3bit': unknown", quantize="3bit")


def test_a_hub_id_without_a_hub_is_one_quick_line(monkeypatch, capfd, caplog):
    """One request, no retries: the client would try ten times for a minute and print each try."""
    from holdfast.core import hub

    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise ConnectionError("no route")

    import huggingface_hub.utils as client
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(client, "get_session", Session)
    assert hub.hub_reachable() is False and len(asked) == 1
    with caplog.at_level(logging.WARNING):
        refused("nobody/nothing", "hub cannot be reached|no such repository")
    assert not caplog.records and capfd.readouterr().err == ""


def write_gguf(path, model, tokenizer):
    """The tiny Llama as a GGUF file, its query and key rows in the order that format has them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        count = heads.get(stem.rpartition(".")[2])
        if count:
            tensor = tensor.view(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_the_model_it_holds(tiny_model, tiny_tokenizer, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer)
    ids = torch.tensor([[1, 30, 31, 32]])
    for source in (tmp_path / "tiny.gguf", tmp_path):
        subject = load(source, device="cpu")
        assert torch.allclose(subject.model(input_ids=ids).logits, tiny_model(input_ids=ids).logits, atol=1e-5)
        assert subject.model.dtype == torch.float32 and not hasattr(subject.model.config, "quantization_config")
        assert encode_prompt("add two", subject.tokenizer) == encode_prompt("add two", tiny_tokenizer)
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "several GGUF files")
    refused(tmp_path / "other.gguf", "could not be loaded")
    refused(tmp_path / "none.gguf", "no such file")


def adapter_in(folder, model, tokenizer=None, template=None):
    save_adapter(add_lora(model, rank=2), folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_an_adapters_tokenizer_and_template_win(folder, tiny_tokenizer, tmp_path):
    size = len(tiny_tokenizer)
    plain = adapter_in(tmp_path / "plain", build_llama(size))
    assert load(folder, plain).tokenizer.chat_template == CHAT_TEMPLATE
    whole = adapter_in(tmp_path / "whole", build_llama(size), build_tokenizer(template=OTHER))
    assert load(folder, whole).tokenizer.chat_template == OTHER
    alone = adapter_in(tmp_path / "alone", build_llama(size), template=OTHER)
    assert load(folder, alone).tokenizer.chat_template == OTHER
    inside = adapter_in(tmp_path / "inside", build_llama(size))
    (inside / "tokenizer_config.json").write_text(json.dumps({"chat_template": OTHER}))
    assert load(folder, inside).tokenizer.chat_template == OTHER
    bare = adapter_in(tmp_path / "bare", build_llama(size), build_tokenizer(template=None))
    assert load(folder, bare).tokenizer.chat_template == CHAT_TEMPLATE
    for file in folder.glob("*token*"):
        file.unlink()
    assert load(folder, whole).tokenizer.chat_template == OTHER
    refused(folder, "no tokenizer in this folder", adapter=plain)
    (whole / "tokenizer.json").write_text("{}")
    refused(folder, "its tokenizer cannot be read", adapter=whole)


@pytest.mark.parametrize("kind", ["saved embeddings", "modules_to_save", "embedding lora", "tokens", "shrunk"])
def test_an_adapter_with_another_number_of_tokens_loads(kind, folder, tiny_tokenizer, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<tool>", "</tool>"])
    rows = len(tokenizer) + (6 if kind == "modules_to_save" else 0)
    rows = len(tiny_tokenizer) - 3 if kind == "shrunk" else rows
    base = build_llama(len(tiny_tokenizer))
    base.resize_token_embeddings(rows, mean_resizing=False)
    settings = {
        "saved embeddings": {},
        "shrunk": {},
        "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "embedding lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        "tokens": {"trainable_token_indices": [rows - 2, rows - 1]},
    }[kind]
    config = peft.LoraConfig(**{"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "r": 2, **settings})
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "a", save_embedding_layers=kind in ("saved embeddings", "shrunk"))
    if kind != "shrunk":
        tokenizer.save_pretrained(tmp_path / "a")
    before = load(folder).model(input_ids=torch.tensor([[1, 30, 31]])).logits
    subject = load(folder, tmp_path / "a")
    assert subject.vocabulary == rows
    assert len(subject.tokenizer) == (len(tiny_tokenizer) if kind == "shrunk" else len(tokenizer))
    old = min(rows, len(tiny_tokenizer))
    saved = rows if kind in ("saved embeddings", "modules_to_save") else old  # the others' new rows were not
    ids = torch.tensor([[1, 30, 31, saved - 1]])
    found, wanted = (m(input_ids=ids).logits[..., :saved] for m in (subject.model, model))
    assert torch.allclose(found, wanted, atol=1e-5)
    with adapter_off(subject.model):
        after = subject.model(input_ids=torch.tensor([[1, 30, 31]])).logits
    assert torch.allclose(after[..., :old], before[..., :old], atol=1e-6)
    assert generate(subject, [[1, rows - 1]], 2)


def test_an_adapter_that_names_another_base_is_said(folder, tiny_tokenizer, tmp_path, caplog):
    def said(**fields):
        caplog.clear()
        path = tmp_path / "a" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        with caplog.at_level(logging.WARNING):
            load(folder, tmp_path / "a", revision="main")
        return caplog.text

    adapter_in(tmp_path / "a", build_llama(len(tiny_tokenizer)))
    assert "made for 'some/other-7b'" in said(base_model_name_or_path="some/other-7b")
    assert said(base_model_name_or_path="/elsewhere/model") == ""
    assert "revision 'v2'" in said(revision="v2")
    for config in (
        peft.IA3Config(target_modules=["up_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
        peft.LoraConfig(target_modules=["up_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM"),
        peft.LoHaConfig(target_modules=["up_proj"], task_type="CAUSAL_LM"),
    ):
        for other in (build_llama(400, layers=3), build_llama(400, hidden=64), build("gpt2")):
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
            peft.get_peft_model(build_llama(400, layers=3), config).save_pretrained(tmp_path / "b")
            if other.config.model_type == "gpt2" or other.config.hidden_size == 64:
                with pytest.raises(UserError, match=r"another base model|does not fit"):
                    load_adapter(other, tmp_path / "b")
        with pytest.raises(UserError, match=r"another base model|does not fit"):
            load_adapter(build_llama(400, layers=2), tmp_path / "b")


def test_a_damaged_adapter_is_said(folder, tiny_tokenizer, tmp_path):
    adapter = adapter_in(tmp_path / "a", build_llama(len(tiny_tokenizer)))
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-9])
    refused(folder, "damaged", adapter=adapter)
    (adapter / "adapter_config.json").write_text("[]")
    refused(folder, "not a configuration", adapter=adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(folder, "safetensors only", adapter=adapter)


def test_layers_that_take_no_lora_are_a_users_error(tiny_model):
    with pytest.raises(UserError, match=r"no_such_layer.*it has down_proj"):
        add_lora(tiny_model, targets=["no_such_layer"])
    assert Subject(tiny_model).vocabulary == tiny_model.config.vocab_size
