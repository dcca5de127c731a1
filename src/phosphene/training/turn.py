"""A turn of a training step: whose weights move, and how."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phosphene.training.settings import Settings


class Turn:
    """One turn of a step: some parameters, under their names, and their AdamW."""

    def __init__(self, name: str, parameters: dict[str, nn.Parameter], settings: Settings) -> None:
        self.name, self.parameters = name, parameters
        matrices = [p for p in parameters.values() if p.ndim > 1]
        gains = [p for p in parameters.values() if p.ndim <= 1]
        groups = [(matrices, settings.weight_decay), (gains, 0.0)]
        device = next(iter(parameters.values())).device.type
        self.optimizer = torch.optim.AdamW(
            [{"params": ps, "weight_decay": decay} for ps, decay in groups if ps],
            lr=settings.rate(0, name),
            betas=tuple(settings.betas),
            eps=settings.eps,
            fused=device in ("cpu", "cuda", "mps", "xpu"),
        )

    def state(self) -> dict[str, Tensor]:
        """AdamW's state under the parameters' names; a parameter that never had a gradient has none."""
        names = {p: name for name, p in self.parameters.items()}
        states = self.optimizer.state.items()
        return {f"{self.name}/{names[p]}/{key}": value for p, state in states for key, value in state.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, p in self.parameters.items():
            begins = f"{self.name}/{name}/"
            state = {k.removeprefix(begins): v for k, v in tensors.items() if k.startswith(begins)}
            if state:
                self.optimizer.state[p] = {k: v.to(p.device, copy=True) for k, v in state.items()}

    def clip(self, longest: float) -> Tensor:
        """The norm of the gradient, which is then shrunk to `longest` (0: never)."""
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        if not grads:
            return torch.zeros((), device=next(iter(self.parameters.values())).device)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if longest and norm.device.type != "cpu":  # without waiting for the device
            torch._foreach_mul_(grads, (longest / norm).clamp(max=1.0))
        elif longest and norm > longest:
            torch._foreach_mul_(grads, longest / float(norm))
        return norm
