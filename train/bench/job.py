"""What is measured: a model, a batch and the settings of a training run."""

import dataclasses
from typing import Any

import numpy as np

from configs.base import get_config
from medusa_jax import MedusaLM
from medusa_jax.errors import UserError
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.model_shapes import SHAPES, random_like
from train.random_model import load_lm
from train.recipe import make_settings
from train.settings import Settings


@dataclasses.dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
      model: folder, hub id or GGUF file; None: the default model.
      shape: a key of `medusa_jax.model_shapes.SHAPES`, to take random weights instead of a model.
      objective: "medusa1" or "medusa2".
      batch_size: sequences per step.
      seq_len: tokens per sequence.
      num_heads: Medusa heads.
      own_projection: each head has a projection (format A), or all share the LM head (format C).
      dtype: compute dtype.
      remat: compute layers again in the backward pass.
      steps: per round.
      rounds: how many; their median counts.
    """

    model: str | None
    shape: str | None
    objective: str
    batch_size: int
    seq_len: int
    num_heads: int
    own_projection: bool
    dtype: str
    remat: bool
    steps: int
    rounds: int

    @property
    def tokens(self) -> int:
        """Positions per step."""
        return self.batch_size * self.seq_len

    def settings(self, hidden_states: str) -> Settings:
        """Settings of the training run that is timed; the rest is as in `configs/base.py`.

        Args:
          hidden_states: "streamed" or "cached".
        """
        config = get_config()
        same = ("objective", "batch_size", "seq_len", "num_heads", "own_projection", "dtype")
        config.update({name: getattr(self, name) for name in same})
        config.remat = "nothing" if self.remat else "none"
        config.update(
            data="random tokens",
            hidden_states=hidden_states,
            steps=1 + self.steps * self.rounds,
            tree=config.tree if self.num_heads >= 4 else f"chain:{self.num_heads}",
            export_format="none",
        )
        return make_settings(config)


def load(job: Job) -> MedusaLM:
    """The backbone, in float32 where it is trained and otherwise in the compute dtype.

    Raises:
      UserError: the model cannot be found or read, or its context is shorter than a sequence.
    """
    dtype = "float32" if job.objective == "medusa2" else job.dtype
    lm = load_lm(job.model, dtype=dtype) if job.shape is None else _random_lm(job.shape, dtype)
    if job.seq_len > lm.config.max_position:
        raise UserError(
            f"--seq_len={job.seq_len} is more than the model's context: "
            f"--seq_len={lm.config.max_position} is the most"
        )
    return lm


def _random_lm(shape: str, dtype: str) -> MedusaLM:
    config = SHAPES[shape]
    return MedusaLM(
        config=config,
        params=random_like(abstract_params(config, np.dtype(dtype)), 0),
        dtype=dtype,
    )


def random_batch(job: Job, vocab_size: int) -> dict[str, Any]:
    """A packed batch of random tokens: one document per row, no padding, all of it labels."""
    shape = (job.batch_size, job.seq_len)
    return {
        "token": np.random.default_rng(0).integers(0, vocab_size, shape).astype(np.int32),
        "is_label": np.ones(shape, bool),
        "segment": np.ones(shape, np.int32),
        "position": np.tile(np.arange(job.seq_len, dtype=np.int32), (job.batch_size, 1)),
    }
