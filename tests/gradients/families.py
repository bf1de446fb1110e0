"""Further families, as tiny configurations: composite checkpoints, mixtures, state spaces and hybrids.

Knows: transformers configurations. Does not know: what is done with the models (zoo.py builds them).
"""

from typing import Any

import transformers as tf

VOCAB = 400
IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 4}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**IDS, **SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}
MIXTURE = {**TEXT, "num_experts_per_tok": 2, "output_router_logits": True, "initializer_range": 0.1}
GEMMA = {
    **TEXT,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _gemma3() -> Any:
    vision = {**VISION, "image_size": 8, "patch_size": 4}
    return tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(text_config=GEMMA, vision_config=vision, mm_tokens_per_image=4, image_token_index=399)
    )


def _gemma4() -> Any:
    text = {
        **GEMMA,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 0,
        "global_head_dim": 8,
    }
    return tf.Gemma4ForCausalLM(tf.Gemma4TextConfig(**text))


def _gpt_oss() -> Any:
    return tf.GptOssForCausalLM(
        tf.GptOssConfig(**{**MIXTURE, "head_dim": 8, "num_local_experts": 4, "sliding_window": 8})
    )


def _deepseek_v3() -> Any:
    return tf.DeepseekV3ForCausalLM(
        tf.DeepseekV3Config(
            **{**TEXT, "num_key_value_heads": 4},
            moe_intermediate_size=16,
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
        )
    )


STATE = {**IDS, "hidden_size": 32, "num_hidden_layers": 2}

# name -> a function that makes the random model
FAMILIES: dict[str, Any] = {
    "gemma3_composite": _gemma3,
    "gemma4": _gemma4,
    "mixtral_router": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**MIXTURE, num_local_experts=4)),
    "qwen3_moe_router": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**MIXTURE, head_dim=8, num_experts=4, moe_intermediate_size=24)
    ),
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
    "mamba2": lambda: tf.Mamba2ForCausalLM(
        tf.Mamba2Config(**STATE, state_size=4, num_heads=4, head_dim=16, expand=2, n_groups=1, chunk_size=8)
    ),
    "falcon_mamba": lambda: tf.FalconMambaForCausalLM(
        tf.FalconMambaConfig(**STATE, state_size=4, time_step_rank=4)
    ),
    "jamba": lambda: tf.JambaForCausalLM(
        tf.JambaConfig(
            **{**TEXT, "num_experts_per_tok": 2, "output_router_logits": True},
            num_experts=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=4,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
        )
    ),
    "falcon_h1": lambda: tf.FalconH1ForCausalLM(
        tf.FalconH1Config(
            **TEXT,
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_n_groups=1,
            mamba_d_state=4,
            mamba_chunk_size=8,
        )
    ),
    "zamba2": lambda: tf.Zamba2ForCausalLM(
        tf.Zamba2Config(
            **{**TEXT, "num_key_value_heads": 4, "num_hidden_layers": 4},
            mamba_d_state=4,
            mamba_headdim=16,
            n_mamba_heads=4,
            mamba_ngroups=1,
            chunk_size=8,
            num_mem_blocks=1,
            layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
            adapter_rank=4,
        )
    ),
    "bamba": lambda: tf.BambaForCausalLM(
        tf.BambaConfig(
            **TEXT,
            attn_layer_indices=[1],
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=1,
            mamba_d_state=4,
            mamba_chunk_size=8,
        )
    ),
    "recurrent_gemma": lambda: tf.RecurrentGemmaForCausalLM(
        tf.RecurrentGemmaConfig(
            **{**IDS, **SIZES, "num_hidden_layers": 3},
            lru_width=32,
            attention_window_size=8,
            num_key_value_heads=1,
        )
    ),
    "lfm2": lambda: tf.Lfm2ForCausalLM(
        tf.Lfm2Config(**TEXT, layer_types=["conv", "full_attention"], conv_L_cache=3)
    ),
    "granite_hybrid": lambda: tf.GraniteMoeHybridForCausalLM(
        tf.GraniteMoeHybridConfig(
            **{**TEXT, "num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 32},
            layer_types=["mamba", "attention"],
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_n_groups=1,
            mamba_d_state=4,
            mamba_chunk_size=8,
        )
    ),
    "nemotron_h": lambda: tf.NemotronHForCausalLM(
        tf.NemotronHConfig(
            **{**TEXT, "num_hidden_layers": 3},
            layers_block_type=["mamba", "attention", "mlp"],
            head_dim=8,
            mamba_num_heads=4,
            mamba_head_dim=16,
            ssm_state_size=4,
            n_groups=1,
            chunk_size=8,
        )
    ),
    "qwen3_next": lambda: tf.Qwen3NextForCausalLM(
        tf.Qwen3NextConfig(
            **MIXTURE,
            head_dim=8,
            num_experts=4,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
            layer_types=["linear_attention", "full_attention"],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        )
    ),
}
