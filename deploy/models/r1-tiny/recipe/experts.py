"""The routed experts of a layer as one function with its derivative written out.

Rows sorted by expert are multiplied slice by slice, without padding; every gradient of a gather is
a gather too. Padding to the fullest expert and bmm took about half as long again on a CPU.
"""

import torch


def swiglu(gate_up):
    """gate_up [N, 2I] -> (silu(gate) * up, sigmoid(gate))"""
    gate, up = gate_up.chunk(2, -1)
    sigmoid = torch.sigmoid(gate)
    return (gate * sigmoid).mul_(up), sigmoid


def swiglu_backward(grad, gate_up, sigmoid):
    gate, up = gate_up.chunk(2, -1)
    silu = gate * sigmoid
    result = torch.empty_like(gate_up)
    by_gate, by_up = result.chunk(2, -1)
    torch.mul(grad, silu, out=by_up)
    # silu' = sigmoid + silu (1 - sigmoid)
    torch.addcmul(sigmoid + silu, silu, sigmoid, value=-1, out=by_gate)
    by_gate.mul_(grad).mul_(up)
    return result


class Ffn(torch.autograd.Function):
    """down(silu(gate x) * up x) with gate and up stacked: x [T, H], gate_up [2I, H], down [H, I]."""

    @staticmethod
    def forward(ctx, x, gate_up, down):
        inner = x @ gate_up.T
        act, sigmoid = swiglu(inner)
        ctx.save_for_backward(x, gate_up, down, inner, act, sigmoid)
        return act @ down.T

    @staticmethod
    def backward(ctx, grad):
        x, gate_up, down, inner, act, sigmoid = ctx.saved_tensors
        grad_inner = swiglu_backward(grad @ down, inner, sigmoid)
        return grad_inner @ gate_up, grad_inner.T @ x, grad.T @ act


class Experts(torch.autograd.Function):
    """Sum over a token's experts of weight * expert(x).

    x [T, H], chosen [T, k], weight [T, k], gate_up [E, 2I, H], down [E, H, I] -> [T, H]
    """

    @staticmethod
    def forward(ctx, x, chosen, weight, gate_up, down):
        tokens, top = chosen.shape
        flat = chosen.flatten()
        ends = torch.bincount(flat, minlength=len(gate_up)).cumsum(0).tolist()
        slices = [slice(first, end) for first, end in zip([0] + ends[:-1], ends)]
        order = flat.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        rows = x[order // top]
        inner = x.new_empty(len(order), gate_up.shape[1])
        for e, s in enumerate(slices):
            torch.mm(rows[s], gate_up[e].T, out=inner[s])
        act, sigmoid = swiglu(inner)
        out = torch.empty_like(rows)
        for e, s in enumerate(slices):
            torch.mm(act[s], down[e].T, out=out[s])
        picked = out[place].view(tokens, top, -1)
        ctx.slices = slices
        ctx.save_for_backward(
            rows, order, place, weight, gate_up, down, inner, act, sigmoid, picked
        )
        return torch.bmm(weight.unsqueeze(1), picked).squeeze(1)

    @staticmethod
    def backward(ctx, grad):
        rows, order, place, weight, gate_up, down, inner, act, sigmoid, picked = ctx.saved_tensors
        tokens, top = weight.shape
        grad_weight = torch.bmm(picked, grad.unsqueeze(2)).squeeze(2)
        grad_out = grad[order // top].mul_(weight.flatten()[order].unsqueeze(1))
        grad_act, grad_down = torch.empty_like(act), torch.empty_like(down)
        for e, s in enumerate(ctx.slices):
            torch.mm(grad_out[s], down[e], out=grad_act[s])
            torch.mm(grad_out[s].T, act[s], out=grad_down[e])
        grad_inner = swiglu_backward(grad_act, inner, sigmoid)
        grad_rows, grad_gate_up = torch.empty_like(rows), torch.empty_like(gate_up)
        for e, s in enumerate(ctx.slices):
            torch.mm(grad_inner[s], gate_up[e], out=grad_rows[s])
            torch.mm(grad_inner[s].T, rows[s], out=grad_gate_up[e])
        grad_x = grad_rows[place].view(tokens, top, -1).sum(1)
        return grad_x, None, grad_weight, grad_gate_up, grad_down
