"""Floating-point operations of a training step, counted from shapes; model FLOPs utilisation.

A product of a vector with a matrix of w elements takes 2 w operations forward, 2 w for the gradient
of the vector and 2 w for that of the matrix; either gradient counts only where it is needed.
Norms, activations, rotations, softmax and the gather of embeddings are left out. Per token, with
D, F, V, N query and K key/value heads of H; and M Medusa heads of L blocks over a vocabulary of Vh:

  layers      w_layers = num_layers (2 D N H + 2 D K H + 3 D F)
  LM head     w_lm_head = V D
  attention   att = num_layers 4 N H S forward, S the mean number of keys that a token sees: a
              causal (T + 1) / 2 of seq_len T, less with a sliding window; twice that backward.
              Packed documents see less still: this is the bound of one document per row
  blocks      w_blocks = M (L + 1 with root conditioning) D^2; other kinds of heads that see their
              path have matrices more (`_matrices_on_inputs`, `_conditioning_flops`)
  projection  w_proj = M Vh D, whether the heads' own or shared
  adapters    w_lora = r (sum of in + out) over the seven maps of each layer and the LM head

  medusa1           2 w_layers + att; blocks 6 w_blocks - 2 M D^2 (the frozen hidden state needs no
                    gradient; with root conditioning - 4 M D^2: neither does the embedding);
                    projection 6 w_proj own, 4 w_proj shared (it is frozen)
  medusa1, soft     + 2 w_lm_head: the base model's distribution is the label, once per position
  medusa1, cached   as medusa1 without its first two terms
  medusa2           6 (w_layers + w_lm_head) + 3 att; heads 6 (w_blocks + w_proj)
  with LoRA         4 (w_layers + w_lm_head) + 3 att + 6 w_lora; heads 6 w_blocks, and 6 w_proj own
                    or 4 w_proj + 6 M r (D + Vh) shared
  self_distill      + 2 (w_layers + w_lm_head) + att: the teacher's forward pass

MFU is these operations per second, as a share of the most that the devices could do. What
`config.remat` computes again is no part of them: MFU by its definition (Chowdhery et al. 2022,
appendix B) does not credit it.
"""

import dataclasses
from typing import Any

import jax

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.plan.chips import peak_flops


@dataclasses.dataclass(frozen=True)
class Work:
    """What a training step does; see the module.

    Attributes:
      objective: "medusa1", "medusa2" or "self_distill".
      lora_rank: r; 0: the whole backbone is trained (except by medusa1).
      cached: hidden states come from disk.
      soft_labels: the heads learn the base model's distribution.
    """

    objective: str
    lora_rank: int = 0
    cached: bool = False
    soft_labels: bool = False


def flops_per_token(config: LlamaConfig, heads: MedusaConfig, seq_len: int, work: Work) -> float:
    """Operations of one training step per token of the batch."""
    forward = 2 * layer_parameters(config) + attention_flops(config, seq_len)
    head = config.vocab_size * config.hidden_size
    total = _head_flops(heads, work)
    if work.objective == "medusa1":
        total += 0 if work.cached else forward
        return total + (2 * head if work.soft_labels else 0)
    if work.lora_rank:
        total += 4 * (layer_parameters(config) + head) + 3 * attention_flops(config, seq_len)
        total += 6 * lora_parameters(config, work.lora_rank)
    else:
        total += 3 * (forward + 2 * head)
    if work.objective == "self_distill":
        total += forward + 2 * head
    return total


def layer_parameters(config: LlamaConfig) -> int:
    """Elements of the matrices of all layers (w_layers)."""
    attention = 2 * config.hidden_size * config.head_dim * (config.num_heads + config.num_kv_heads)
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp)


def lora_parameters(config: LlamaConfig, rank: int) -> int:
    """Elements of adapters on all linear maps and the LM head (w_lora)."""
    D, F = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = 2 * (D + query) + 2 * (D + key) + 3 * (D + F)
    return rank * (config.num_layers * layer + D + config.vocab_size)


def attention_flops(config: LlamaConfig, seq_len: int) -> float:
    """Operations of scores and weighted values, forward, all layers, per token (att)."""
    per_key = 4 * config.num_heads * config.head_dim
    windows = config.windows or (None,) * config.num_layers
    return sum(per_key * _mean_keys(seq_len, window) for window in windows)


def _mean_keys(seq_len: int, window: int | None) -> float:
    """Mean over t = 1..T of min(t, window)."""
    reach = seq_len if window is None else min(window, seq_len)
    return (reach * (reach + 1) / 2 + (seq_len - reach) * reach) / seq_len


def _head_flops(heads: MedusaConfig, work: Work) -> float:
    D, M = heads.hidden_size, heads.num_heads
    # Matrices [D, D] that are applied per position to what heads see, and those after them.
    seen = _matrices_on_inputs(heads)
    blocks = 6 * D * D * (M * (heads.num_layers - bool(heads.num_layers)) + seen)
    if work.objective == "medusa1":  # nothing needs the gradient of what the heads see
        blocks -= 2 * D * D * seen
    blocks += _conditioning_flops(heads)
    projection = M * heads.vocab_size * D
    if heads.own_projection and work.objective == "medusa1" and not heads.num_layers:
        return 4 * projection
    if heads.own_projection or (work.objective != "medusa1" and not work.lora_rank):
        return blocks + 6 * projection
    adapter = 0 if work.objective == "medusa1" else work.lora_rank * (D + heads.vocab_size)
    return blocks + 4 * projection + 6 * M * adapter


def _matrices_on_inputs(heads: MedusaConfig) -> int:
    """Matrices applied to hidden states or embeddings, which need no gradient with MEDUSA-1."""
    M = heads.num_heads
    if heads.conditioning == "branch":
        return M + M * (M + 1) // 2
    if heads.conditioning == "recurrent":
        return 2 * M
    return M * (1 + heads.sees_root) * bool(heads.num_layers)


def _conditioning_flops(heads: MedusaConfig) -> float:
    """Operations of cells (their states and their outputs) and of corrections."""
    M, D, r = heads.num_heads, heads.hidden_size, heads.markov_rank
    if heads.conditioning == "recurrent":  # of the first product, which all share, one runs forward
        return 6 * D * D * (M - 1 + M) - 2 * D * D * (M - 1)
    gate = 6 * r * (D + r) if heads.conditioning == "gated_markov" else 0
    return M * (4 * r * D + 6 * r * heads.vocab_size + gate)


def mfu(flops_per_step: float, seconds: float, device: Any) -> float | None:
    """Model FLOPs utilisation, from 0 to 1.

    Args:
      flops_per_step: of one device.
      seconds: per step.
      device: the device, as in `jax.devices()`.

    Returns:
      The share; None for a device whose peak is not known, such as a CPU.
    """
    peak = peak_flops(device.device_kind)
    return None if peak is None else flops_per_step / (seconds * peak)


def device_memory_bytes() -> int | None:
    """The most bytes that any device of this process has had in use; None on a CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(peaks, default=None)
