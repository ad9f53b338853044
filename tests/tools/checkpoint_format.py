"""Names, shapes and files of R1-architecture checkpoints, for the generators beside this file.

Written apart from the product's inventory on purpose: each checks the other.
"""

import json
import struct

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}

R1 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}

GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.95,
}


class Tensor:
    """kind: embed, head, norm, matrix, router or bias; scales carry the weight they belong to."""

    def __init__(self, name, dtype, shape, kind, of=None):
        self.name, self.dtype, self.shape, self.kind, self.of = name, dtype, shape, kind, of

    @property
    def elements(self):
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def bytes(self):
        return self.elements * BYTES[self.dtype]


def tensors(config, plain="BF16", with_nextn=True):
    """All tensors in checkpoint order. `plain` is the type of what FP8 does not cover."""
    c = config
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    nope, rope, v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    quant = c.get("quantization_config")
    block = quant["weight_block_size"] if quant else None
    out = []

    def vector(name, n, kind="norm", dtype=plain):
        out.append(Tensor(name, dtype, [n], kind))

    def matrix(name, rows, cols, kind="matrix"):
        fp8 = block is not None and kind == "matrix"
        weight = Tensor(name + ".weight", "F8_E4M3" if fp8 else plain, [rows, cols], kind)
        out.append(weight)
        if fp8:
            grid = [-(-rows // block[0]), -(-cols // block[1])]
            out.append(Tensor(weight.name + "_scale_inv", "F32", grid, "scale", weight))

    def ffn(prefix, width):
        matrix(prefix + "gate_proj", width, hidden)
        matrix(prefix + "up_proj", width, hidden)
        matrix(prefix + "down_proj", hidden, width)

    def layer(i):
        p = f"model.layers.{i}."
        vector(p + "input_layernorm.weight", hidden)
        a = p + "self_attn."
        q_rank = c["q_lora_rank"]
        if q_rank:
            matrix(a + "q_a_proj", q_rank, hidden)
            vector(a + "q_a_layernorm.weight", q_rank)
            matrix(a + "q_b_proj", heads * (nope + rope), q_rank)
        else:
            matrix(a + "q_proj", heads * (nope + rope), hidden)
        matrix(a + "kv_a_proj_with_mqa", c["kv_lora_rank"] + rope, hidden)
        vector(a + "kv_a_layernorm.weight", c["kv_lora_rank"])
        matrix(a + "kv_b_proj", heads * (nope + v), c["kv_lora_rank"])
        matrix(a + "o_proj", hidden, heads * v)
        vector(p + "post_attention_layernorm.weight", hidden)
        m = p + "mlp."
        experts = c["n_routed_experts"] or 0
        sparse = i >= c["first_k_dense_replace"] and i % c.get("moe_layer_freq", 1) == 0
        if not experts or not sparse:
            ffn(m, c["intermediate_size"])
            return
        matrix(m + "gate", experts, hidden, "router")
        vector(m + "gate.e_score_correction_bias", experts, "bias", "F32")
        for e in range(experts):
            ffn(f"{m}experts.{e}.", c["moe_intermediate_size"])
        if c.get("n_shared_experts"):
            ffn(m + "shared_experts.", c["n_shared_experts"] * c["moe_intermediate_size"])

    matrix("model.embed_tokens", c["vocab_size"], hidden, "embed")
    layers = c["num_hidden_layers"]
    for i in range(layers):
        layer(i)
    if with_nextn:
        for i in range(layers, layers + c.get("num_nextn_predict_layers", 0)):
            p = f"model.layers.{i}."
            matrix(p + "embed_tokens", c["vocab_size"], hidden, "embed")
            vector(p + "enorm.weight", hidden)
            vector(p + "hnorm.weight", hidden)
            matrix(p + "eh_proj", hidden, 2 * hidden, "plain")
            layer(i)
            vector(p + "shared_head.norm.weight", hidden)
            matrix(p + "shared_head.head", c["vocab_size"], hidden, "head")
    vector("model.norm.weight", hidden)
    if not c.get("tie_word_embeddings"):
        matrix("lm_head", c["vocab_size"], hidden, "head")
    return out


def split(all_tensors, files):
    """Cuts the list into at most `files` runs of about the same size."""
    total = sum(t.bytes for t in all_tensors)
    runs, run, done = [], [], 0
    for t in all_tensors:
        run.append(t)
        done += t.bytes
        if done >= total * (len(runs) + 1) / files:
            runs.append(run)
            run = []
    if run:
        runs.append(run)
    return runs


def file_order(run):
    """The order of the usual writer: widest type first, then by name."""
    return sorted(run, key=lambda t: (-BYTES[t.dtype], t.name))


def header(ordered):
    """The bytes before the data, padded so that the data begins at a multiple of 8."""
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for t in ordered:
        entries[t.name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + t.bytes]}
        at += t.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")


def write_index(path, file_of, all_tensors):
    # total_size as R1's index has it: two bytes for every element.
    total = 2 * sum(t.elements for t in all_tensors)
    write_json(path, {"metadata": {"total_size": total}, "weight_map": file_of})
