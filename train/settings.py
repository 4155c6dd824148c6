"""The settings of a training run, which `train.recipe` reads and `train.settings_checks` judges."""

import dataclasses
from typing import Literal

from medusa_jax.config import Conditioning, MedusaConfig
from medusa_jax.objectives.objective import HeadLabels
from train.data.pipeline import DataErrors


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices per axis of the mesh; -1: all that the other axes leave over."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of `configs/base.py`, which says what they mean."""

    model: str | None
    medusa: str | None
    data: str
    data_errors: DataErrors
    held_out: float
    objective: Literal["medusa1", "medusa2", "self_distill"]
    hidden_states: Literal["streamed", "cached"]
    head_labels: HeadLabels
    head_decay: float
    heads_coef: float
    heads_schedule: Literal["constant", "linear", "sine"]
    heads_ramp: float
    stop_lm_head: bool
    num_heads: int
    num_layers: int
    own_projection: bool
    conditioning: Conditioning
    markov_rank: int
    draft_vocab: int
    steps: int | None
    epochs: float | None
    batch_size: int
    seq_len: int
    accumulate: int
    seed: int
    learning_rate: float
    head_lr_multiplier: float
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    moments: Literal["float32", "bfloat16", "factored"]
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    quantize: Literal["none", "int8", "nf4"]
    dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "products", "nothing", "offload"]
    mesh: MeshSettings
    log_every: int
    eval_every: int
    save_every: int
    keep: int
    profile: str
    tree: str
    export_format: Literal["A", "B", "C", "vllm", "none"]
    export_dtype: Literal["float32", "bfloat16", "float16"]

    @property
    def num_steps(self) -> int:
        """Steps of the run; a run of epochs has them after `train.data.epochs.with_steps`."""
        if self.steps is None:
            raise ValueError("the steps of an epoch depend on the data: call with_steps before")
        return self.steps

    @property
    def soft_labels(self) -> bool:
        """Whether heads learn distributions of the base model."""
        return self.head_labels != "tokens"

    @property
    def lora_scale(self) -> float:
        """alpha / r, the adapters' weight; 1 without adapters."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 1.0

    @property
    def profile_steps(self) -> tuple[int, int] | None:
        """First and last step of the trace; None: no trace."""
        if not self.profile:
            return None
        first, _, last = self.profile.partition(":")
        return int(first), int(last)

    def heads_config(
        self, hidden_size: int, vocab_size: int, *, draft_vocab: bool, bias: bool = True
    ) -> MedusaConfig:
        """The heads that are asked for, on a model of width `hidden_size`.

        Args:
          hidden_size: D.
          vocab_size: V, or the size of the draft vocabulary.
          draft_vocab: whether they have one.
          bias: whether their blocks have biases, as fresh ones do.
        """
        return MedusaConfig(
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            hidden_size=hidden_size,
            vocab_size=vocab_size,
            bias=bias,
            own_projection=self.own_projection,
            draft_vocab=draft_vocab,
            conditioning=self.conditioning,
            markov_rank=self.markov_rank if "markov" in self.conditioning else 0,
        )
