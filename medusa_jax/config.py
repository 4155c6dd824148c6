"""Static descriptions of the networks: frozen, hashable, usable as jit statics."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
      theta: base of the geometric series of wavelengths.
      kind: "default", "linear", "dynamic" (NTK) or "llama3".
      factor: context extension factor of the scaled kinds.
      low_freq_factor: "llama3" only: wavelengths above original/low are divided by factor.
      high_freq_factor: "llama3" only: wavelengths below original/high are kept.
      original_max_position: context length before the extension ("dynamic" and "llama3").
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 0


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A Llama-style decoder: Llama 1-3, Vicuna, Mistral, Zephyr, Qwen2, Qwen3.

    Attributes:
      vocab_size: V.
      hidden_size: D, width of the residual stream.
      intermediate_size: F, width of the gated MLP.
      num_layers: decoder layers.
      num_heads: N, query heads.
      num_kv_heads: K, key/value heads; divides N.
      head_dim: H; need not be D / N.
      max_position: longest sequence in tokens.
      rms_norm_eps: added to the mean square in every RMSNorm.
      rope: rotary embedding.
      tie_embeddings: the LM head is the embedding matrix.
      qkv_bias: biases on the query, key and value projections.
      o_bias: bias on the attention's output projection.
      mlp_bias: biases in the MLP.
      qk_norm: RMSNorm over each query and key head before RoPE (Qwen3).
      windows: sliding window of each layer in tokens (None: full attention); empty: all full.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class MedusaConfig:
    """Medusa heads (paper, section 2.1.1): residual blocks, then a vocabulary projection.

    Attributes:
      num_heads: M; head k = 1..M predicts the token at t + k + 1 from the hidden state at t.
      num_layers: L residual blocks per head, independent of each other.
      hidden_size: D of the backbone.
      vocab_size: tokens that the heads can propose; less than V with a draft vocabulary.
      bias: the blocks have biases.
      own_projection: every head has its own projection (formats A, B, vLLM); otherwise the
        backbone's LM head is shared (format C).
      draft_vocab: `vocab_size` rows chosen by a `token_map` rather than all V.
      root_conditioned: the first block also sees the embedding of the token at t + 1, which the
        base head has fixed before any head runs (ours; not in the paper).
    """

    num_heads: int
    hidden_size: int
    vocab_size: int
    num_layers: int = 1
    bias: bool = True
    own_projection: bool = False
    draft_vocab: bool = False
    root_conditioned: bool = False
