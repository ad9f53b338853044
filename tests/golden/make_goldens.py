#!/usr/bin/env python3
"""Makes tests/golden/data: tiny random checkpoints and what transformers' DeepseekV3 says of them.

usage: pip install numpy==2.3.5 safetensors==0.6.2 torch==2.8.0 transformers==4.57.6
       tests/golden/make_goldens.py [CASE...]

Everything runs in FP32 on the weights exactly as stored (FP8: value * block scale). Two things are
changed in transformers, both said here:
- its router fills experts of groups that were not chosen with 0, which beats negative scores; the
  published model masks them with -inf (DeepSeek's own code does), so the mask is patched to that;
- for W8A8, which it has no FP32 form of, the inputs of FP8 linears (but kv_b) are quantised as
  docs/numbers.md says.
"""

import json
import math
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling

from cases import CASES

HERE = pathlib.Path(__file__).parent
PROMPT_LENGTHS = (5, 37)
NEW_TOKENS = 64
BLOCK = 128
QUANTISED = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj",
             "up_proj", "down_proj")
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def choose_experts(self, scores):
    """DeepseekV3TopkRouter.get_topk_indices with -inf for groups not chosen, ties to the lowest."""
    choice = scores.view(-1, self.n_routed_experts) + self.e_score_correction_bias.unsqueeze(0)
    grouped = choice.view(-1, self.n_group, self.n_routed_experts // self.n_group)
    group_scores = grouped.topk(2, dim=-1)[0].sum(dim=-1)
    kept = torch.topk(group_scores, k=self.topk_group, dim=-1, sorted=False)[1]
    mask = torch.zeros_like(group_scores).scatter_(1, kept, 1).bool()
    choice = grouped.masked_fill(~mask.unsqueeze(-1), float("-inf")).view(-1, self.n_routed_experts)
    indices = torch.topk(choice, k=self.top_k, dim=-1, sorted=False)[1]
    self.taken.append(indices.sort(dim=-1)[0])
    return indices


modeling.DeepseekV3TopkRouter.get_topk_indices = choose_experts


def fp8_blocks(weight):
    """(E4M3 tensor, F32 scales, exact FP32 value) of a matrix in 128x128 blocks."""
    rows, cols = weight.shape
    grid = (math.ceil(rows / BLOCK), math.ceil(cols / BLOCK))
    padded = torch.zeros(grid[0] * BLOCK, grid[1] * BLOCK)
    padded[:rows, :cols] = weight
    blocks = padded.view(grid[0], BLOCK, grid[1], BLOCK)
    scales = (blocks.abs().amax(dim=(1, 3)) / 448.0).clamp_min(1e-12)
    values = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    exact = (values.float() * scales[:, None, :, None]).reshape(padded.shape)[:rows, :cols].contiguous()
    return values.reshape(padded.shape)[:rows, :cols].contiguous(), scales, exact


def segments(k, granule):
    count = 16
    while count > 1 and (k % count or (k // count) % granule):
        count //= 2
    return count


def quantise_rows(x, group):
    """W8A8 inputs: per row and `group` columns, amax clamped to 1e-4, scale amax / 448."""
    shape = x.shape
    k = shape[-1]
    flat = torch.zeros(x.numel() // k, math.ceil(k / group) * group)
    flat[:, :k] = x.reshape(-1, k)
    parts = flat.view(flat.shape[0], -1, group)
    scale = parts.abs().amax(dim=-1, keepdim=True).clamp_min(1e-4) / 448.0
    parts = (parts / scale).to(torch.float8_e4m3fn).float() * scale
    return parts.reshape(flat.shape)[:, :k].reshape(shape)


def patch_w8a8(model, config):
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if not isinstance(module, torch.nn.Linear) or leaf not in QUANTISED or leaf == "kv_b_proj":
            continue
        k, group = module.in_features, BLOCK
        if leaf == "o_proj":
            granule = math.lcm(32, config["v_head_dim"])
            group = min(BLOCK, k // segments(k, granule))
        elif leaf == "down_proj" and ".experts." not in name:
            group = min(BLOCK, k // segments(k, 32))
        module.register_forward_pre_hook(lambda _, args, g=group: (quantise_rows(args[0], g),))


def random_weights(model, case, rng):
    """Replaces every parameter; returns the tensors of the checkpoint as stored."""
    stored = {}
    with torch.no_grad():
        for name, parameter in list(model.named_parameters()) + list(model.named_buffers()):
            leaf = name.split(".")[-2]
            if name.endswith("inv_freq") or (name == "lm_head.weight" and case["config"]["tie_word_embeddings"]):
                continue
            if parameter.numel() == 0:
                continue
            shape = tuple(parameter.shape)
            if name.endswith("e_score_correction_bias"):
                value = torch.from_numpy(rng.uniform(*case["bias"], shape).astype(np.float32))
                stored[name] = value
                parameter.copy_(value)
                continue
            normal = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
            if len(shape) == 1:
                value = 1.0 + 0.2 * normal
            elif leaf == "embed_tokens":
                value = normal * (shape[1] ** -0.5 * 2.0 if case["config"]["tie_word_embeddings"] else 0.8)
            else:
                gain = {"lm_head": 2.0, "gate": 1.5}.get(leaf, 1.2)
                value = normal * gain * shape[1] ** -0.5
            if case["dtype"] == "F8_E4M3" and leaf in QUANTISED:
                values, scales, exact = fp8_blocks(value)
                stored[name], stored[name + "_scale_inv"] = values, scales
            else:
                dtype = TORCH.get(case["dtype"], torch.bfloat16)
                stored[name] = value.to(dtype)
                exact = stored[name].float()
            parameter.copy_(exact)
    return stored


def run(model, config, rng):
    routers = [m for m in model.modules() if isinstance(m, modeling.DeepseekV3TopkRouter)]
    transcripts = []
    for length in PROMPT_LENGTHS:
        ids = [0] + [int(i) for i in rng.integers(2, config["vocab_size"], length - 1)]
        for router in routers:
            router.taken = []
        with torch.no_grad():
            out = model(torch.tensor([ids]), use_cache=True)
            routes = [router.taken[0].tolist() for router in routers]
            logits = out.logits[0, -1].double()
            generated, tops = [], []
            for _ in range(NEW_TOKENS):
                step = out.logits[0, -1].float()
                best = torch.topk(step, 5)
                tops.append([[int(i), float(v)] for v, i in zip(*best)])
                generated.append(int(torch.argmax(step)))
                out = model(torch.tensor([[generated[-1]]]), past_key_values=out.past_key_values, use_cache=True)
        transcripts.append({
            "prompt": ids,
            "generated": generated,
            "top5": tops,
            "last_prompt_logits": [float(x) for x in logits],
            "sigma": float(logits.std()),
            "margin": min(t[0][1] - t[1][1] for t in tops),
            "routes": routes,  # [moe layer][prompt position][k], ascending ids
        })
    return transcripts


def make(case, index):
    rng = np.random.Generator(np.random.Philox(key=1000 + index))
    config = transformers.DeepseekV3Config(**json.loads(json.dumps(
        {k: v for k, v in case["config"].items() if k != "quantization_config"})))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = modeling.DeepseekV3ForCausalLM(config).float().eval()
    for module in model.modules():
        if isinstance(module, modeling.DeepseekV3TopkRouter):
            module.taken = []
    stored = random_weights(model, case, rng)
    if case["w8a8"]:
        patch_w8a8(model, case["config"])
    transcripts = run(model, case["config"], rng)
    folder = HERE / "data" / case["name"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case["config"], indent=1) + "\n")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "w8a8": case["w8a8"],
        "transcripts": transcripts,
    }
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(case["name"], *(f"sigma {t['sigma']:.2f} margin {t['margin']:.4f} distinct {len(set(t['generated']))}"
                          for t in transcripts), sep="; ")


def main():
    for index, case in enumerate(CASES):
        if len(sys.argv) == 1 or case["name"] in sys.argv[1:]:
            make(case, index)


if __name__ == "__main__":
    main()
