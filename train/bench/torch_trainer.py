"""The other side: MEDUSA-1 as one would write it in torch, around transformers' backbone."""

import importlib
import importlib.util
from typing import Any

import jax
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.environment import cores
from medusa_jax.io.hf.transformers_model import to_transformers
from train.bench.job import Job
from train.optimizer import learning_rate_schedule


def missing_reason(job: Job) -> str | None:
    """Why there is nothing to compare with here; None if there is."""
    if job.objective != "medusa1" or job.dtype != "float32":
        return "it trains the heads alone, in float32"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    if jax.default_backend() != "cpu" and not _torch().cuda.is_available():
        return f"this torch cannot use the {jax.default_backend()} that JAX runs on"
    return None


class TorchTrainer:
    """Frozen backbone without gradients, heads as modules, cross-entropy per head, AdamW.

    Attributes:
      name: "torch".
    """

    name = "torch"

    def __init__(self, job: Job, lm: MedusaLM, batch: dict[str, Any]) -> None:
        torch = _torch()
        torch.set_num_threads(cores())
        self._device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        model = to_transformers(lm.config, lm.params, "float32").to(self._device)
        self._backbone = model.model.eval().requires_grad_(False)
        vocabulary = model.lm_head.weight.detach()
        self._heads = torch.nn.ModuleList(
            _head(torch, vocabulary, job.own_projection) for _ in range(job.num_heads)
        ).to(self._device)
        self._token_BT = torch.from_numpy(batch["token"]).long().to(self._device)
        settings = job.settings("streamed")
        schedule = learning_rate_schedule(
            settings.learning_rate * settings.head_lr_multiplier,
            settings.warmup_steps,
            settings.num_steps,
        )
        self._rates = iter(
            [np.asarray(schedule(step)).item() for step in range(settings.num_steps)]
        )
        self._decay, self._clip = settings.head_decay, settings.grad_clip
        self._optimizer = torch.optim.AdamW(
            self._heads.parameters(), lr=0.0, weight_decay=settings.weight_decay
        )

    def step(self) -> float:
        """One update; waits for it, and returns the loss that it started from."""
        torch = _torch()
        with torch.no_grad():
            hidden_BTD = self._backbone(self._token_BT, use_cache=False).last_hidden_state
        loss = self._loss(hidden_BTD)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._heads.parameters(), self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = next(self._rates)
        self._optimizer.step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def _loss(self, hidden_BTD: Any) -> Any:
        """Sum over k of decay**k times the mean cross-entropy of head k (paper, equation 1)."""
        entropy = _torch().nn.functional.cross_entropy
        loss: Any = 0.0
        for k, head in enumerate(self._heads, 1):
            logits_BTV = head(hidden_BTD[:, : -k - 1])
            label_BT = self._token_BT[:, k + 1 :]
            loss = loss + self._decay**k * entropy(logits_BTV.flatten(0, 1), label_BT.flatten())
        return loss


def _head(torch: Any, vocabulary_VD: Any, own_projection: bool) -> Any:
    """A residual block that starts as the identity, and a projection that starts as the LM head."""

    class ResBlock(torch.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(size, size)
            torch.nn.init.zeros_(self.linear.weight)
            torch.nn.init.zeros_(self.linear.bias)

        def forward(self, x: Any) -> Any:
            return x + torch.nn.functional.silu(self.linear(x))

    size, vocab_size = vocabulary_VD.shape[1], vocabulary_VD.shape[0]
    projection = torch.nn.Linear(size, vocab_size, bias=False, device="meta")
    weight = vocabulary_VD.clone() if own_projection else vocabulary_VD
    projection.weight = torch.nn.Parameter(weight, requires_grad=own_projection)
    return torch.nn.Sequential(ResBlock(size), projection)


def _torch() -> Any:
    return importlib.import_module("torch")
