"""Static descriptions of the networks: frozen, hashable, usable as jit statics."""

import dataclasses
from typing import Literal


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


Conditioning = Literal["none", "root", "markov", "gated_markov", "branch", "recurrent"]


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
      conditioning: what a head sees besides the hidden state. "none": nothing, as in the paper. The
        others are not in the paper; equations in `medusa_jax.nn.heads` and `medusa_jax.nn.branch`.
        "root": the token at t + 1, which the base head has fixed before any head runs. "markov",
        "gated_markov": the root, and a correction of the logits by the token that comes right
        before the one to predict (DSpark, arXiv 2607.05147). "branch": all tokens from the root on
        (Hydra, arXiv 2402.05109). "recurrent": likewise, through one cell that all heads share, as
        they share their blocks' matrices (ReDrafter, arXiv 2403.09919).
      markov_rank: r of the Markov correction; 0 without one.

    Raises:
      ValueError: a correction needs a rank, and nothing else has one; recurrent heads differ in
        their biases alone; heads that see their branch have blocks, and those that are run anew for
        every branch share the LM head.
    """

    num_heads: int
    hidden_size: int
    vocab_size: int
    num_layers: int = 1
    bias: bool = True
    own_projection: bool = False
    draft_vocab: bool = False
    conditioning: Conditioning = "none"
    markov_rank: int = 0

    def __post_init__(self) -> None:
        if self.corrects != (self.markov_rank > 0):
            rank, kind = self.markov_rank, self.conditioning
            raise ValueError(f"markov_rank {rank} does not suit {kind} heads")
        if self.conditioning == "recurrent" and not self.bias:
            raise ValueError("recurrent heads need biases: nothing else tells them apart")
        if self.sees_branch and not self.num_layers:
            raise ValueError(f"{self.conditioning} heads need blocks")
        if self.sees_branch and self.own_projection and not self.corrects:
            raise ValueError(f"{self.conditioning} heads share the LM head")

    @property
    def corrects(self) -> bool:
        """Whether a low-rank term of the token before corrects the logits."""
        return self.conditioning in ("markov", "gated_markov")

    @property
    def sees_root(self) -> bool:
        """Whether heads need the token at t + 1."""
        return self.conditioning != "none"

    @property
    def sees_branch(self) -> bool:
        """Whether what a head proposes depends on tokens that other heads have proposed."""
        return self.conditioning not in ("none", "root")

    @property
    def tokens_seen(self) -> int:
        """How many of the tokens from t + 1 on the last head needs."""
        return self.num_heads if self.sees_branch else int(self.sees_root)
