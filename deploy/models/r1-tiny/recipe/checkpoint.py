"""Reads an exported checkpoint back into the model, dequantised: the files are what is evaluated."""

import json

import torch
from safetensors.torch import load_file

from export import dequantised, tensors
from model import R1Tiny


@torch.no_grad()
def load(folder):
    config = json.loads((folder / "config.json").read_text())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    held = {}
    for file in sorted(set(index.values())):
        held.update(load_file(folder / file))
    model = R1Tiny(config)
    for name, tensor in tensors(model):
        stored = held.pop(name)
        if stored.dtype == torch.float8_e4m3fn:
            stored = dequantised(stored, held.pop(name + "_scale_inv"))
        tensor.copy_(stored.float())
    if held:
        raise ValueError(f"{folder}: tensors that the model lacks: {sorted(held)[:5]}")
    return model.eval()
