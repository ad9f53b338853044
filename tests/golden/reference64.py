#!/usr/bin/env python3
"""A DeepSeek-V3/R1 forward in float64, plain numpy, expanded attention: the second opinion for
checkpoints too large for transformers here, and written from the published equations alone.

usage: reference64.py CHECKPOINT_DIR --ids 1,2,3 [--top K]     prints one JSON object:
       {"logits_top": [[[id, logit], ...] per position], "routes": [[ids] per MoE layer and position],
        "sigma": per position, "margins": [per MoE layer and position: how far the last expert (or group) chosen is
        above the first that is not]}
Matrices are read and multiplied some rows at a time, so that R1's own widths take little memory.
"""

import argparse
import json
import math
import pathlib
import struct

import numpy as np


def e4m3_table():
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8.0) * 2.0 ** (exponent - 7.0))
    value[(codes & 0x7F) == 0x7F] = np.nan
    return sign * value


E4M3 = e4m3_table()
STORED = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F8_E4M3": np.uint8}
# Elements of a matrix that are in memory at a time.
CHUNK = 1 << 23


class Checkpoint:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.tensors = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                size = struct.unpack("<Q", file.read(8))[0]
                header = json.loads(file.read(size))
            for name, info in header.items():
                if name != "__metadata__":
                    self.tensors[name] = (path, 8 + size, info)

    def shape(self, name):
        return self.tensors[name][2]["shape"]

    def rows(self, name, first, count):
        """Rows [first, first + count) of a matrix in float64; of FP8, whole blocks of rows."""
        path, base, info = self.tensors[name]
        columns, dtype = info["shape"][-1], info["dtype"]
        stored = np.fromfile(path, dtype=STORED[dtype], count=count * columns,
                             offset=base + info["data_offsets"][0]
                             + first * columns * STORED[dtype]().itemsize).reshape(count, columns)
        if dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype != "F8_E4M3":
            return stored.astype(np.float64)
        value = E4M3[stored]
        high, wide = self.config["quantization_config"]["weight_block_size"]
        scales = self.get(name + "_scale_inv")
        for row in range(0, count, high):
            value[row : row + high] *= np.repeat(scales[(first + row) // high], wide)[:columns]
        return value

    def get(self, name):
        """A whole tensor."""
        shape = self.shape(name)
        return self.rows(name, 0, math.prod(shape[:-1])).reshape(shape)

    def product(self, x, name):
        """x @ W.T"""
        rows, columns = self.shape(name)
        quantization = self.config.get("quantization_config")
        block = quantization["weight_block_size"][0] if quantization else 1
        step = max(1, CHUNK // columns // block) * block
        out = np.empty((x.shape[0], rows))
        for first in range(0, rows, step):
            count = min(step, rows - first)
            out[:, first : first + count] = x @ self.rows(name, first, count).T
        return out


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1.0 + np.exp(-x))


def rope_tables(config, positions):
    """cos, sin [positions, dim/2], and the multiplier on the softmax scale."""
    dim, base = config["qk_rope_head_dim"], float(config["rope_theta"])
    frequency = base ** (-np.arange(0, dim, 2) / dim)
    scaling = config.get("rope_scaling")
    if not scaling:
        magnitude, softmax = 1.0, 1.0
    else:
        factor = float(scaling["factor"])

        def mscale(k):
            return 1.0 if factor <= 1 else 0.1 * k * math.log(factor) + 1.0

        def corrected(rotations):
            original = scaling["original_max_position_embeddings"]
            return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low, high = corrected(scaling.get("beta_fast", 32)), corrected(scaling.get("beta_slow", 1))
        if scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / ((high - low) or 0.001), 0, 1)
        frequency = frequency * (1 - ramp) + frequency / factor * ramp
        m, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
        magnitude = scaling.get("attention_factor")
        if magnitude is None:
            magnitude = mscale(m) / mscale(all_dim) if m and all_dim else mscale(1.0)
        softmax = mscale(all_dim) ** 2 if all_dim else 1.0
    angles = np.asarray(positions)[:, None] * frequency
    return np.cos(angles) * magnitude, np.sin(angles) * magnitude, softmax


def rotate(x, cos, sin):
    """Interleaved pairs of the last axis; x [tokens, ..., dim]."""
    shape = (cos.shape[0],) + (1,) * (x.ndim - 2) + (cos.shape[1],)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


def attention(ckpt, prefix, x, positions):
    config = ckpt.config
    heads, nope, v = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    rope, lora, eps = config["qk_rope_head_dim"], config["kv_lora_rank"], config["rms_norm_eps"]
    tokens = x.shape[0]
    if config.get("q_lora_rank"):
        q = rms_norm(ckpt.product(x, prefix + "q_a_proj.weight"), ckpt.get(prefix + "q_a_layernorm.weight"), eps)
        q = ckpt.product(q, prefix + "q_b_proj.weight")
    else:
        q = ckpt.product(x, prefix + "q_proj.weight")
    q = q.reshape(tokens, heads, nope + rope)
    compressed = ckpt.product(x, prefix + "kv_a_proj_with_mqa.weight")
    latent = rms_norm(compressed[:, :lora], ckpt.get(prefix + "kv_a_layernorm.weight"), eps)
    cos, sin, softmax_factor = rope_tables(config, positions)
    q_rope = rotate(q[..., nope:], cos, sin)
    k_rope = rotate(compressed[:, lora:], cos, sin)
    kv = ckpt.product(latent, prefix + "kv_b_proj.weight").reshape(tokens, heads, nope + v)
    scores = np.einsum("thd,shd->hts", q[..., :nope], kv[..., :nope])
    scores += np.einsum("thd,sd->hts", q_rope, k_rope)
    scores *= (nope + rope) ** -0.5 * softmax_factor
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("hts,shd->thd", weights, kv[..., nope:]).reshape(tokens, heads * v)
    return ckpt.product(out, prefix + "o_proj.weight")


def ffn(ckpt, prefix, x):
    hidden = silu(ckpt.product(x, prefix + "gate_proj.weight")) * ckpt.product(x, prefix + "up_proj.weight")
    return ckpt.product(hidden, prefix + "down_proj.weight")


def gap(values, k):
    """Between the k-th largest of each row and the next; infinite if there is none."""
    ordered = -np.sort(-values, axis=-1)
    return ordered[:, k - 1] - ordered[:, k] if k < values.shape[1] else np.full(len(values), np.inf)


def route(config, scores, bias):
    """Chosen experts [tokens, k] ascending, their weights, and by how much the choice was clear [tokens]."""
    tokens, experts = scores.shape
    groups, k = config["n_group"], config["num_experts_per_tok"]
    choice = (scores + bias).reshape(tokens, groups, experts // groups)
    best_two = -np.sort(-choice, axis=-1)[..., :2].sum(-1)
    kept = np.argsort(-best_two, axis=-1, kind="stable")[:, : config["topk_group"]]
    masked = np.full_like(choice, -np.inf)
    for t in range(tokens):
        masked[t, kept[t]] = choice[t, kept[t]]
    masked = masked.reshape(tokens, experts)
    ids = np.sort(np.argsort(-masked, axis=-1, kind="stable")[:, :k], axis=-1)
    margin = np.minimum(gap(best_two, config["topk_group"]), gap(masked, k))
    weights = np.take_along_axis(scores, ids, axis=-1)
    if config["norm_topk_prob"]:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return ids, weights * config["routed_scaling_factor"], margin


def moe(ckpt, prefix, x, routes):
    config = ckpt.config
    scores = 1.0 / (1.0 + np.exp(-ckpt.product(x, prefix + "gate.weight")))
    ids, weights, margin = route(config, scores, ckpt.get(prefix + "gate.e_score_correction_bias"))
    routes.append((ids.tolist(), margin.tolist()))
    out = np.zeros_like(x)
    for expert in np.unique(ids):
        token, slot = np.nonzero(ids == expert)
        out[token] += weights[token, slot][:, None] * ffn(ckpt, f"{prefix}experts.{expert}.", x[token])
    if config.get("n_shared_experts"):
        out += ffn(ckpt, prefix + "shared_experts.", x)
    return out


def forward(ckpt, ids):
    config, eps, routes = ckpt.config, ckpt.config["rms_norm_eps"], []
    h = np.concatenate([ckpt.rows("model.embed_tokens.weight", i, 1) for i in ids])
    positions = np.arange(len(ids))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        x = rms_norm(h, ckpt.get(prefix + "input_layernorm.weight"), eps)
        h = h + attention(ckpt, prefix + "self_attn.", x, positions)
        x = rms_norm(h, ckpt.get(prefix + "post_attention_layernorm.weight"), eps)
        dense = layer < config["first_k_dense_replace"] or not config.get("n_routed_experts")
        h = h + (ffn(ckpt, prefix + "mlp.", x) if dense else moe(ckpt, prefix + "mlp.", x, routes))
    h = rms_norm(h, ckpt.get("model.norm.weight"), eps)
    head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return ckpt.product(h, head), routes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--ids", required=True)
    parser.add_argument("--top", type=int, default=8)
    args = parser.parse_args()
    logits, routes = forward(Checkpoint(args.checkpoint), [int(i) for i in args.ids.split(",")])
    order = np.argsort(-logits, axis=-1, kind="stable")[:, : args.top]
    logsumexp = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    print(json.dumps({
        "logits_top": [[[int(i), float(row[i])] for i in best] for row, best in zip(logits, order)],
        "logsumexp": logsumexp.tolist(),
        "sigma": logits.std(-1).tolist(),
        "routes": [ids for ids, _ in routes],
        "margins": [margin for _, margin in routes],
    }))


if __name__ == "__main__":
    main()
