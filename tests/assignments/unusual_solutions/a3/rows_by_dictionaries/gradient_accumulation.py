"""Gradients that never reach `grad` before the end: hooks on the parameters take them away."""

import torch


def accumulate_gradients(model, loss_sum_of, micro_batches):
    trained = [p for p in dict.fromkeys(model.parameters()) if p.requires_grad]
    if any(p.grad is not None for p in trained):
        raise ValueError("gradients of an earlier batch")
    sums, losses, tokens = {}, [], 0

    def take(parameter):
        wide = torch.promote_types(parameter.dtype, torch.float32)
        gradient, parameter.grad = parameter.grad.to(wide), None
        sums[parameter] = sums[parameter].add(gradient) if parameter in sums else gradient

    hooks = [p.register_post_accumulate_grad_hook(take) for p in trained]
    try:
        for part in micro_batches:
            total, count = loss_sum_of(model, part)
            total.backward()
            losses.append(total.detach().clone())
            tokens += int(count)
    finally:
        for hook in hooks:
            hook.remove()
    if tokens == 0:
        raise ValueError("no token counts")
    for parameter, total in sums.items():
        parameter.grad = (total / tokens).to(parameter.dtype)
    return torch.stack(losses).sum() / tokens
