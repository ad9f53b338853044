#!/usr/bin/env python3
"""Writes a random checkpoint of the R1 architecture (python3 and numpy, nothing else).

    make_checkpoint.py DIR --preset tiny --dtype fp8 --seed 7
    make_checkpoint.py DIR --preset 1b --dtype bf16
    make_checkpoint.py DIR --preset tiny --set q_lora_rank=null --set n_shared_experts=2
    make_checkpoint.py DIR --config config.json --bias negative --files 3

Weights are scaled so that activations keep their size through the layers, logits have the standard
deviation --logit-sigma, and the router spreads its choices. A tensor's values depend on the seed
and its name only, so the same model may be cut into any number of files.
"""

import argparse
import json
import os
import time
import zlib

import numpy as np

import checkpoint_format as cf

# Elements made at a time: bounds memory, and keeps blocks of whole rows cheap.
CHUNK = 1 << 24

TINY = dict(
    hidden_size=128, num_hidden_layers=4, first_k_dense_replace=1, intermediate_size=512,
    moe_intermediate_size=128, num_attention_heads=8, q_lora_rank=128, kv_lora_rank=128,
    qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, n_routed_experts=32,
    num_experts_per_tok=4, vocab_size=512, num_nextn_predict_layers=0)

# What each preset changes of R1's config.
PRESETS = {
    "tiny": TINY,
    "tiny-mtp": dict(TINY, num_nextn_predict_layers=1),
    "tiny-q-proj": dict(TINY, q_lora_rank=None),
    "tiny-one-group": dict(TINY, n_group=1, topk_group=1),
    "tiny-no-rope-scaling": dict(TINY, rope_scaling=None),
    "tiny-all-dense": dict(TINY, first_k_dense_replace=4),
    "tiny-no-dense": dict(TINY, first_k_dense_replace=0),
    "tiny-two-shared": dict(TINY, n_shared_experts=2),
    "tiny-no-shared": dict(TINY, n_shared_experts=0),
    "tiny-raw-weights": dict(TINY, norm_topk_prob=False),
    "tiny-tied": dict(TINY, tie_word_embeddings=True),
    # Widths that no block of 128 divides; heads' rows straddle blocks.
    "tiny-ragged": dict(TINY, hidden_size=192, intermediate_size=416, moe_intermediate_size=96,
                        q_lora_rank=160, kv_lora_rank=96),
    # About a billion parameters in R1's proportions, for speed.
    "1b": dict(
        hidden_size=2048, num_hidden_layers=5, first_k_dense_replace=1, intermediate_size=8192,
        moe_intermediate_size=512, num_attention_heads=16, q_lora_rank=768, kv_lora_rank=512,
        n_routed_experts=64, vocab_size=32768, num_nextn_predict_layers=0),
    # R1's widths: embedding, one dense and one full expert layer, head; about 16 GB as FP8.
    "r1-slice": dict(num_hidden_layers=2, first_k_dense_replace=1, num_nextn_predict_layers=0),
}


def to_bf16(x):
    """F32 to BF16 bits, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def e4m3_values():
    """The 256 values of E4M3, NaN as NaN."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9,
                     (8 + mantissa) * 2.0 ** (exponent.astype(float) - 10))
    value[(code & 127) == 127] = np.nan
    return np.where(code >= 128, -value, value)


def normal_quantiles(n):
    """n equally likely values of a unit normal, ascending."""
    grid = np.linspace(-6, 6, 1 << 18)
    density = np.exp(-0.5 * grid * grid)
    cdf = np.cumsum(density)
    cdf = (cdf - 0.5 * density) / cdf[-1]
    values = np.interp((np.arange(n) + 0.5) / n, cdf, grid)
    return values / np.sqrt(np.mean(values**2))


NORMAL = normal_quantiles(1 << 16)
# Unit of the FP8 codes: 448 is about 4.3 deviations, the most a normal table of 2^16 reaches.
FP8_SIGMA = 448 / NORMAL[-1]


def fp8_table():
    """uint16 -> E4M3 code, so that uniform numbers become a normal of deviation FP8_SIGMA."""
    values = e4m3_values()
    codes = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")[:254]
    # -0 and +0 are both there; nearest by midpoints.
    ordered = values[codes]
    cut = (ordered[1:] + ordered[:-1]) / 2
    return codes[np.searchsorted(cut, NORMAL * FP8_SIGMA)].astype(np.uint8)


FP8_TABLE = fp8_table()


class Maker:
    def __init__(self, config, args):
        self.config, self.args = config, args
        self.cache = {}

    def rng(self, tensor):
        return np.random.SFC64([self.args.seed, zlib.crc32(tensor.name.encode())])

    def sigma(self, tensor):
        """Standard deviation of a matrix's elements."""
        a = self.args
        if tensor.kind == "embed":
            if self.config.get("tie_word_embeddings"):
                return a.logit_sigma / np.sqrt(tensor.shape[1])
            return 1.0
        if tensor.kind == "head":
            return a.logit_sigma / np.sqrt(tensor.shape[1])
        if tensor.kind == "router":
            return a.router_sigma / np.sqrt(tensor.shape[1])
        # SwiGLU and attention shrink their inputs; the matrices after them make up for it.
        gain = 2.0 if "down_proj" in tensor.name or "o_proj" in tensor.name else 1.0
        return a.gain * gain / np.sqrt(tensor.shape[1])

    def table(self, dtype, sigma):
        """uint16 -> bits of `dtype`, of a normal with this deviation."""
        if dtype == "F8_E4M3":
            return FP8_TABLE
        key = (dtype, sigma)
        if key not in self.cache:
            values = (NORMAL * sigma).astype(np.float32)
            if dtype == "BF16":
                values = to_bf16(values)
            elif dtype == "F16":
                values = values.astype(np.float16).view(np.uint16)
            self.cache[key] = values
        return self.cache[key]

    def small(self, tensor):
        """Vectors and scales, whole."""
        rng = np.random.Generator(self.rng(tensor))
        n = tensor.elements
        if tensor.kind == "scale":
            # Deviation of what the blocks hold, varied from block to block.
            sigma = self.sigma(tensor.of) / FP8_SIGMA
            return (sigma * np.exp(rng.uniform(-0.5, 0.5, n))).astype(np.float32)
        if tensor.kind == "bias":
            bias = 0.1 * rng.standard_normal(n)
            if self.args.bias == "negative":
                bias = -1.2 - np.abs(bias)  # below any sigmoid, so that every score is negative
            elif self.args.bias == "positive":
                bias = 2.5 + bias
            return bias.astype(np.float32)
        values = (1 + 0.1 * rng.standard_normal(n)).astype(np.float32)
        if tensor.dtype == "BF16":
            return to_bf16(values)
        return values.astype(np.float16) if tensor.dtype == "F16" else values

    def write(self, tensor, out):
        if tensor.kind in ("norm", "scale", "bias"):
            out.write(self.small(tensor).data)
            return
        table = self.table(tensor.dtype, self.sigma(tensor))
        rng = self.rng(tensor)
        left = tensor.elements
        while left:
            n = min(left, CHUNK)
            uniform = rng.random_raw((n + 3) // 4).view(np.uint16)[:n]
            out.write(table[uniform].data)
            left -= n


def set_option(config, text):
    key, _, value = text.partition("=")
    try:
        config[key] = json.loads(value)
    except json.JSONDecodeError:
        config[key] = value


def make_config(args):
    config = json.loads(json.dumps(cf.R1))
    if args.config:
        with open(args.config) as f:
            config = json.load(f)
    else:
        config.update(PRESETS[args.preset])
        config["num_key_value_heads"] = config["num_attention_heads"]
    for text in args.set:
        set_option(config, text)
    if args.dtype != "fp8":
        config.pop("quantization_config", None)
    elif not config.get("quantization_config"):
        config["quantization_config"] = cf.R1["quantization_config"]
    if args.block:
        config["quantization_config"]["weight_block_size"] = [int(n) for n in args.block.split("x")]
    names = {"fp8": "bfloat16", "bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    config["torch_dtype"] = names[args.dtype]
    return config


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--config", help="a config.json instead of a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON",
                        help="change one key of the config; may be repeated")
    parser.add_argument("--dtype", choices=["fp8", "bf16", "f16", "f32"], default="fp8")
    parser.add_argument("--block", help="FP8 block as ROWSxCOLS, default 128x128")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=2,
                        help="1 writes model.safetensors without an index")
    parser.add_argument("--bias", choices=["mixed", "negative", "positive"], default="mixed",
                        help="signs of the router's correction biases")
    parser.add_argument("--logit-sigma", type=float, default=2.0)
    parser.add_argument("--router-sigma", type=float, default=1.5)
    parser.add_argument("--gain", type=float, default=1.0,
                        help="factor on all matrices within layers")
    return parser.parse_args()


def write_model(args, config):
    plain = {"fp8": "BF16", "bf16": "BF16", "f16": "F16", "f32": "F32"}[args.dtype]
    all_tensors = cf.tensors(config, plain)
    runs = cf.split(all_tensors, args.files)
    maker = Maker(config, args)
    file_of = {}
    for i, run in enumerate(runs, 1):
        name = f"model-{i:05d}-of-{len(runs):05d}.safetensors"
        if args.files == 1:
            name = "model.safetensors"
        ordered = cf.file_order(run)
        with open(os.path.join(args.dir, name), "wb") as f:
            f.write(cf.header(ordered))
            for tensor in ordered:
                maker.write(tensor, f)
        file_of.update({t.name: name for t in run})
    if args.files > 1:
        index = os.path.join(args.dir, "model.safetensors.index.json")
        cf.write_index(index, file_of, all_tensors)
    return all_tensors


def main():
    args = parse_args()
    start = time.monotonic()
    config = make_config(args)
    os.makedirs(args.dir, exist_ok=True)
    cf.write_json(os.path.join(args.dir, "config.json"), config)
    cf.write_json(os.path.join(args.dir, "generation_config.json"), cf.GENERATION)
    all_tensors = write_model(args, config)
    parameters = sum(t.elements for t in all_tensors if t.kind != "scale")
    print(f"{args.dir}: {len(all_tensors)} tensors, {parameters} parameters, "
          f"{sum(t.bytes for t in all_tensors)} bytes, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
