"""Muon for the matrices inside the blocks, AdamW for the rest."""

import torch

# Coefficients of a quintic Newton-Schulz iteration that brings all singular values near 1.
QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
)
MAX_TOGETHER = 32


def orthogonalised(g):
    """g [B, rows, columns]: all its singular values brought near 1."""
    tall = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if tall else g
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for a, b, c in QUINTIC:
        gram = torch.bmm(x, x.transpose(1, 2))
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. A parameter [.., rows, columns] is a stack of matrices;
    gate_up is two. Weights shrink by lr * decay a step."""

    def __init__(self, named, lr, decay, momentum=0.95):
        groups = [{"params": [p], "halves": name.endswith("gate_up_proj")} for name, p in named]
        super().__init__(groups, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (p,) = group["params"]
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            p.mul_(1 - group["lr"] * group["decay"])
            rows, columns = p.shape[-2] // (2 if group["halves"] else 1), p.shape[-1]
            gain = max(1.0, rows / columns) ** 0.5
            stack = (-1, rows, columns)
            # In pieces that stay in the cache.
            for weight, grad, momentum in zip(
                *(t.view(stack).split(MAX_TOGETHER) for t in (p, p.grad, state["momentum"]))
            ):
                update = orthogonalised(torch.lerp(grad, momentum, group["momentum"]))
                weight.sub_(update, alpha=group["lr"] * gain)


def optimizers(model, muon_lr, decay, adam_lr):
    """[Muon, AdamW, Muon for the routed experts]"""
    matrices, experts, rest = [], [], []
    for name, p in model.named_parameters():
        if p.dim() == 3:
            experts.append((name, p))
        elif p.dim() == 2 and not name.endswith((".gate", "embed_tokens", "lm_head")):
            matrices.append((name, p))
        else:
            rest.append(p)
    return [
        Muon(matrices, muon_lr, decay),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        Muon(experts, muon_lr, decay),
    ]
