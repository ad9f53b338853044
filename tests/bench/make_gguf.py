#!/usr/bin/env python3
"""Writes a BF16 checkpoint of the R1 architecture as GGUF, for llama.cpp beside Whalepod (peers.py). Needs PyPI's gguf.

    make_gguf.py CHECKPOINT OUT.gguf

Token ids are served: the vocabulary is one of names without a text.
"""

import json
import pathlib
import sys

import gguf
import numpy as np


def tensors_of(folder):
    """name -> (shape, little-endian BF16 or F32 array) of every safetensors file."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kinds = {"BF16": "<u2", "F32": "<f4"}
            if entry["dtype"] not in kinds:
                sys.exit(f"{path}: {name} is {entry['dtype']}, expected BF16 or F32")
            tensors[name] = np.memmap(path, kinds[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0],
                                      tuple(entry["shape"]))
    return tensors


def to_f32(tensor):
    return (tensor.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == np.uint16 else tensor


def add_parameters(writer, config):
    nope, rope, rank = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["kv_lora_rank"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(True)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if hasattr(writer, "add_expert_group_count"):
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def add_vocabulary(writer, config):
    names = [f"<{i}>" for i in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(names))
    writer.add_token_merges([])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    tensors = tensors_of(folder)
    writer = gguf.GGUFWriter(sys.argv[2], "deepseek2")
    add_parameters(writer, config)
    add_vocabulary(writer, config)

    def add(name, array, small=False):
        array = np.ascontiguousarray(array)
        if small or array.ndim == 1 or array.dtype == np.float32:
            writer.add_tensor(name, np.ascontiguousarray(to_f32(array)))
        else:
            writer.add_tensor(name, array.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    add("token_embd.weight", tensors["model.embed_tokens.weight"])
    add("output_norm.weight", tensors["model.norm.weight"])
    add("output.weight", tensors["lm_head.weight"])
    heads, nope = config["num_attention_heads"], config["qk_nope_head_dim"]
    for layer in range(config["num_hidden_layers"]):
        of = lambda name: tensors[f"model.layers.{layer}.{name}.weight"]
        block = f"blk.{layer}."
        for ours, theirs in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
                             ("self_attn.q_a_proj", "attn_q_a"), ("self_attn.q_a_layernorm", "attn_q_a_norm"),
                             ("self_attn.q_b_proj", "attn_q_b"), ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
                             ("self_attn.kv_a_layernorm", "attn_kv_a_norm"), ("self_attn.o_proj", "attn_output")]:
            add(f"{block}{theirs}.weight", of(ours))
        kv_b = of("self_attn.kv_b_proj").reshape(heads, nope + config["v_head_dim"], -1)
        add(f"{block}attn_k_b.weight", kv_b[:, :nope].transpose(0, 2, 1))
        add(f"{block}attn_v_b.weight", kv_b[:, nope:])
        if layer < config["first_k_dense_replace"]:
            for part in ("gate", "up", "down"):
                add(f"{block}ffn_{part}.weight", of(f"mlp.{part}_proj"))
            continue
        add(f"{block}ffn_gate_inp.weight", of("mlp.gate"), small=True)
        add(f"{block}exp_probs_b.bias", tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"])
        for part in ("gate", "up", "down"):
            add(f"{block}ffn_{part}_shexp.weight", of(f"mlp.shared_experts.{part}_proj"))
            experts = [of(f"mlp.experts.{e}.{part}_proj") for e in range(config["n_routed_experts"])]
            add(f"{block}ffn_{part}_exps.weight", np.stack(experts))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
