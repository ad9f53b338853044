#!/usr/bin/env python3
"""Writes a checkpoint as DeepSeek-R1 publishes its own: names, dtypes, FP8 blocks, files and index.

export.py --state DIR/state.pt --tokenizer DIR --out MODEL_DIR
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

from config import CONFIG, GENERATION_CONFIG
from model import R1Tiny

BLOCK, LARGEST = 128, 448.0
FILES = 2


def quantised(weight):
    """weight [R, C] -> (E4M3 [R, C], scale [ceil(R / 128), ceil(C / 128)]): weight ~ E4M3 * scale."""
    rows, columns = weight.shape
    grid = (-(-rows // BLOCK), -(-columns // BLOCK))
    padded = torch.zeros(grid[0] * BLOCK, grid[1] * BLOCK)
    padded[:rows, :columns] = weight
    blocks = padded.view(grid[0], BLOCK, grid[1], BLOCK)
    largest = blocks.abs().amax((1, 3))
    scale = torch.where(largest > 0, largest / LARGEST, torch.ones(()))
    codes = (blocks / scale[:, None, :, None]).clamp(-LARGEST, LARGEST).reshape(padded.shape)
    return codes[:rows, :columns].contiguous().to(torch.float8_e4m3fn), scale


def dequantised(codes, scale):
    grown = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return codes.float() * grown[: codes.shape[0], : codes.shape[1]]


def ffn(prefix, gate_up, down):
    gate, up = gate_up.chunk(2)
    return [
        (prefix + "gate_proj.weight", gate),
        (prefix + "up_proj.weight", up),
        (prefix + "down_proj.weight", down),
    ]


def block(prefix, layer):
    """(name, tensor) of a layer, in R1's order."""
    attention = layer.self_attn
    yield prefix + "input_layernorm.weight", layer.input_layernorm.weight
    for name in (
        "q_a_proj",
        "q_a_layernorm",
        "q_b_proj",
        "kv_a_proj_with_mqa",
        "kv_a_layernorm",
        "kv_b_proj",
        "o_proj",
    ):
        part = getattr(attention, name)
        yield f"{prefix}self_attn.{name}.weight", getattr(part, "weight", part)
    yield prefix + "post_attention_layernorm.weight", layer.post_attention_layernorm.weight
    mlp, prefix = layer.mlp, prefix + "mlp."
    if not hasattr(mlp, "gate"):
        yield from ffn(prefix, mlp.gate_up_proj, mlp.down_proj)
        return
    yield prefix + "gate.weight", mlp.gate
    yield prefix + "gate.e_score_correction_bias", mlp.e_score_correction_bias
    for e in range(mlp.count):
        yield from ffn(f"{prefix}experts.{e}.", mlp.gate_up_proj[e], mlp.down_proj[e])
    yield from ffn(
        prefix + "shared_experts.", mlp.shared_experts.gate_up_proj, mlp.shared_experts.down_proj
    )


def tensors(model):
    """Every (name, FP32 tensor) of the checkpoint; the MTP module is the layer after the last."""
    yield "model.embed_tokens.weight", model.embed_tokens
    for i, layer in enumerate(model.layers):
        yield from block(f"model.layers.{i}.", layer)
    last = f"model.layers.{len(model.layers)}."
    yield last + "embed_tokens.weight", model.embed_tokens
    yield last + "enorm.weight", model.enorm.weight
    yield last + "hnorm.weight", model.hnorm.weight
    yield last + "eh_proj.weight", model.eh_proj
    yield from block(last, model.mtp)
    yield last + "shared_head.norm.weight", model.mtp_norm.weight
    yield last + "shared_head.head.weight", model.lm_head
    yield "model.norm.weight", model.norm.weight
    yield "lm_head.weight", model.lm_head


def is_fp8(name, tensor):
    return tensor.dim() == 2 and "_proj" in name and "eh_proj" not in name


def stored(model):
    """name -> tensor as it goes into a file."""
    result = {}
    for name, tensor in tensors(model):
        tensor = tensor.detach().float()
        if is_fp8(name, tensor):
            result[name], result[name + "_scale_inv"] = quantised(tensor)
        elif name.endswith("e_score_correction_bias"):
            result[name] = tensor.clone()
        else:
            result[name] = tensor.bfloat16()
    return result


@torch.no_grad()
def rounded(model, fp8):
    """The weights of `model` become what an engine computes with: values of BF16 and E4M3."""
    for name, tensor in tensors(model):
        if fp8 and is_fp8(name, tensor):
            tensor.copy_(dequantised(*quantised(tensor.float())))
        elif not name.endswith("e_score_correction_bias"):
            tensor.copy_(tensor.bfloat16().float())
    return model


def write(model, tokenizer_folder, out):
    out.mkdir(parents=True, exist_ok=True)
    every = stored(model)
    half = sum(t.nbytes for t in every.values()) / FILES
    files, size = [{}], 0
    for name, tensor in every.items():
        if size > half * len(files) and len(files) < FILES:
            files.append({})
        files[-1][name] = tensor
        size += tensor.nbytes
    place = {}
    for i, held in enumerate(files, 1):
        file = f"model-{i:05d}-of-{FILES:06d}.safetensors"
        save_file(held, out / file, {"format": "pt"})
        place.update(dict.fromkeys(held, file))
    index = {"metadata": {"total_size": size}, "weight_map": place}
    for name, content in (
        ("model.safetensors.index.json", index),
        ("config.json", CONFIG),
        ("generation_config.json", GENERATION_CONFIG),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, out / name)
    print(f"{out}: {sum(t.numel() for _, t in tensors(model))} parameters, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    model = R1Tiny(CONFIG)
    model.load_state_dict(torch.load(args.state)["model"])
    write(model, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
