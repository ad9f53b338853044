"""DeepSeek-V3/R1 in PyTorch: MLA, YaRN, routing without auxiliary loss, one MTP module.

For training on a CPU, all in FP32 (without AMX, BF16 products are slower). Gate and up are one
matrix, gate rows first; the experts of a layer are stacked: gate_up [E, 2I, H], down [E, H, I].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from experts import Experts, Ffn


def yarn(config):
    """(frequencies [rope / 2], softmax scale) of config.json's rope_scaling."""
    scaling, dim = config["rope_scaling"], config["qk_rope_head_dim"]
    base, factor = config["rope_theta"], scaling["factor"]
    length = scaling["original_max_position_embeddings"]

    def correction(rotations):
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(correction(scaling["beta_fast"])), 0)
    high = min(math.ceil(correction(scaling["beta_slow"])), dim - 1)
    index = torch.arange(dim // 2, dtype=torch.float64)
    plain = base ** (-2 * index / dim)
    ramp = ((index - low) / (high - low + (0.001 if low == high else 0))).clamp(0, 1)
    magnitude = 0.1 * scaling["mscale_all_dim"] * math.log(factor) + 1
    width = config["qk_nope_head_dim"] + dim
    return (plain * (1 - ramp) + plain / factor * ramp).float(), width**-0.5 * magnitude**2


class Norm(torch.autograd.Function):
    """RMSNorm with its derivative written out: few passes over memory."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = torch.rsqrt(
            torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + eps
        )
        hat = x * scale
        ctx.save_for_backward(hat, scale, weight)
        return hat * weight

    @staticmethod
    def backward(ctx, grad):
        hat, scale, weight = ctx.saved_tensors
        by_weight = (grad * hat).flatten(0, -2).sum(0)
        grad = grad * weight
        mean = torch.linalg.vecdot(grad, hat).unsqueeze(-1) / hat.shape[-1]
        return torch.addcmul(grad, hat, mean, value=-1).mul_(scale), by_weight, None


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return Norm.apply(x, self.weight, self.eps)


def matrix(rows, columns, *leading, gain=1.0):
    return nn.Parameter(torch.randn(*leading, rows, columns) * gain * columns**-0.5)


class Attention(nn.Module):
    def __init__(self, c, rope):
        super().__init__()
        self.heads, self.nope, self.rope_dim = (
            c["num_attention_heads"],
            c["qk_nope_head_dim"],
            c["qk_rope_head_dim"],
        )
        self.v_dim, self.latent, self.rope = c["v_head_dim"], c["kv_lora_rank"], rope
        hidden, q_rank = c["hidden_size"], c["q_lora_rank"]
        self.q_a_proj = matrix(q_rank, hidden)
        self.q_a_layernorm = RMSNorm(q_rank, c["rms_norm_eps"])
        self.q_b_proj = matrix(self.heads * (self.nope + self.rope_dim), q_rank)
        self.kv_a_proj_with_mqa = matrix(self.latent + self.rope_dim, hidden)
        self.kv_a_layernorm = RMSNorm(self.latent, c["rms_norm_eps"])
        self.kv_b_proj = matrix(self.heads * (self.nope + self.v_dim), self.latent)
        self.o_proj = matrix(hidden, self.heads * self.v_dim, gain=0.5)

    def rotate(self, x, cos, sin):
        """Consecutive pairs, as R1 stores them; x [..., rope]."""
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def project(self, x, positions):
        """x [B, L, H], positions [B or 1, L] -> q [B, heads, L, 48], k [.., 48], v [.., 32]."""
        batch, length, _ = x.shape
        q = F.linear(self.q_a_layernorm(F.linear(x, self.q_a_proj)), self.q_b_proj)
        q = q.view(batch, length, self.heads, -1).transpose(1, 2)
        a = F.linear(x, self.kv_a_proj_with_mqa)
        kv = F.linear(self.kv_a_layernorm(a[..., : self.latent]), self.kv_b_proj)
        kv = kv.view(batch, length, self.heads, -1).transpose(1, 2)
        angle = positions[:, None, :, None] * self.rope[0]
        cos, sin = angle.cos(), angle.sin()
        k_rope = self.rotate(a[:, None, :, self.latent :], cos, sin)
        q = torch.cat((q[..., : self.nope], self.rotate(q[..., self.nope :], cos, sin)), -1)
        k = torch.cat((kv[..., : self.nope], k_rope.expand(-1, self.heads, -1, -1)), -1)
        return q, k, kv[..., self.nope :]

    def forward(self, x, positions, cache=None, mask=None):
        q, k, v = self.project(x, positions)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        width = self.nope + self.rope_dim
        # The fused kernel wants one width.
        o = F.scaled_dot_product_attention(
            q,
            k,
            F.pad(v, (0, width - self.v_dim)),
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.rope[1],
        )
        o = o[..., : self.v_dim].transpose(1, 2).flatten(2)
        return F.linear(o, self.o_proj)


class Dense(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_up_proj, self.down_proj = matrix(2 * inner, hidden), matrix(
            hidden, inner, gain=0.5
        )

    def forward(self, x):
        return Ffn.apply(x.flatten(0, -2), self.gate_up_proj, self.down_proj).view(x.shape)


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, inner = c["hidden_size"], c["moe_intermediate_size"]
        self.count, self.groups, self.kept = c["n_routed_experts"], c["n_group"], c["topk_group"]
        self.top, self.scaling = c["num_experts_per_tok"], c["routed_scaling_factor"]
        self.gate = matrix(self.count, hidden)
        self.register_buffer("e_score_correction_bias", torch.zeros(self.count))
        self.gate_up_proj = matrix(2 * inner, hidden, self.count)
        self.down_proj = matrix(hidden, inner, self.count, gain=0.5)
        self.shared_experts = Dense(hidden, inner * c["n_shared_experts"])
        # How many tokens each expert had, for the correction bias.
        self.load = torch.zeros(self.count)

    def route(self, x):
        """x [T, H] -> experts [T, top], weights [T, top]: R1's "noaux_tc"."""
        score = torch.sigmoid(F.linear(x, self.gate))
        with torch.no_grad():
            biased = (score + self.e_score_correction_bias).view(
                -1, self.groups, self.count // self.groups
            )
            best = biased.topk(2, -1).values.sum(-1).topk(self.kept, -1).indices
            keep = torch.zeros_like(biased[..., 0], dtype=torch.bool).scatter_(1, best, True)
            biased = biased.masked_fill(~keep.unsqueeze(-1), -math.inf).flatten(1)
            chosen = biased.topk(self.top, -1).indices
        weight = score.gather(1, chosen)
        return chosen, weight / (weight.sum(-1, keepdim=True) + 1e-20) * self.scaling

    def forward(self, x):
        flat = x.flatten(0, -2)
        chosen, weight = self.route(flat)
        if self.training:
            self.load = torch.bincount(chosen.flatten(), minlength=self.count).float()
        routed = Experts.apply(flat, chosen, weight, self.gate_up_proj, self.down_proj)
        return routed.view(x.shape) + self.shared_experts(x)


class Block(nn.Module):
    def __init__(self, c, rope, dense):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c, rope)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Dense(c["hidden_size"], c["intermediate_size"]) if dense else Moe(c)

    def forward(self, h, positions, cache=None, mask=None):
        h = h + self.self_attn(self.input_layernorm(h), positions, cache, mask)
        return h + self.mlp(self.post_attention_layernorm(h))


class R1Tiny(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        hidden, rope = c["hidden_size"], yarn(c)
        self.embed_tokens = nn.Parameter(torch.randn(c["vocab_size"], hidden) * 0.3)
        self.layers = nn.ModuleList(
            Block(c, rope, i < c["first_k_dense_replace"]) for i in range(c["num_hidden_layers"])
        )
        self.norm = RMSNorm(hidden, c["rms_norm_eps"])
        self.lm_head = matrix(c["vocab_size"], hidden, gain=0.2)
        self.enorm = RMSNorm(hidden, c["rms_norm_eps"])
        self.hnorm = RMSNorm(hidden, c["rms_norm_eps"])
        self.eh_proj = matrix(hidden, 2 * hidden)
        self.mtp = Block(c, rope, False)
        self.mtp_norm = RMSNorm(hidden, c["rms_norm_eps"])

    def hidden(self, ids, positions=None, caches=None, mask=None):
        """ids [B, L] -> the hidden state after the final norm [B, L, H]."""
        if positions is None:
            positions = torch.arange(ids.shape[1])[None]
        h = self.embed_tokens[ids]
        for i, layer in enumerate(self.layers):
            h = layer(h, positions, caches[i] if caches else None, mask)
        return self.norm(h)

    def draft(self, hidden, ids):
        """MTP: (hidden_i, token_{i+1}) -> normed state that predicts token_{i+2}; [B, L - 1, H]."""
        e = self.enorm(self.embed_tokens[ids[:, 1:]])
        u = F.linear(torch.cat((e, self.hnorm(hidden[:, :-1])), -1), self.eh_proj)
        return self.mtp_norm(self.mtp(u, torch.arange(u.shape[1])[None]))

    def logits(self, hidden):
        return F.linear(hidden, self.lm_head)

    def moes(self):
        return [m for m in self.modules() if isinstance(m, Moe)]


def loss(model, ids, mask, mtp_weight=0.3):
    """ids [B, L + 1], mask [B, L + 1]: true where a token is to be predicted. (total, main, MTP);
    without MTP where its weight is 0."""
    hidden = model.hidden(ids[:, :-1])
    # Positions outside the response are not worth the head's product.
    main = F.cross_entropy(model.logits(hidden[mask[:, 1:]]), ids[:, 1:][mask[:, 1:]])
    if not mtp_weight:
        return main, main.detach(), None
    draft = model.draft(hidden, ids[:, :-1])
    mtp = F.cross_entropy(model.logits(draft[mask[:, 2:]]), ids[:, 2:][mask[:, 2:]])
    return main + mtp_weight * mtp, main.detach(), mtp.detach()
