"""Attention of packed sequences to themselves, by the kernel that the platform has.

Training and evaluation run whole sequences, several documents in each. On a TPU the kernel is
splash attention, on a GPU with Triton JAX's flash attention: neither holds scores in memory, and
both know documents. Elsewhere `medusa_jax.nn.attention` takes a block of queries at a time. The
choice is made when the program is lowered: compiled for a TPU on another machine, it is the TPU's.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from medusa_jax.gpu import has_triton
from medusa_jax.nn.attention import attention
from medusa_jax.nn.kernels import gpu_attention

_LANES = 128  # of a TPU: the kernel takes whole registers of keys
_BLOCKS = (512, 256, _LANES)
_TRITON_BLOCK = 64  # of queries and of keys: larger ones leave the backward pass too few registers


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["segment_BT"], meta_fields=["mesh"]
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """Which token sees which in packed sequences: what precedes it in its own document.

    Attributes:
      segment_BT: int, the number of each token's document; padding counts as one.
      mesh: where the rows are; None: on one device.
    """

    segment_BT: jax.Array
    mesh: Mesh | None = None

    def mask(self) -> jax.Array:
        """bool [B, T, T], see `medusa_jax.nn.attention.attention`."""
        length = self.segment_BT.shape[1]
        same = self.segment_BT[:, :, None] == self.segment_BT[:, None, :]
        return same & jnp.tril(jnp.ones((1, length, length), jnp.bool_))


def packed_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    packed: Packed,
    position_BT: jax.Array,
    *,
    window: int | None = None,
) -> jax.Array:
    """Causal attention within each document.

    Args:
      q_BTNH: queries, rotated.
      k_BTKH: keys, rotated; K divides N.
      v_BTKH: values.
      packed: the documents.
      position_BT: int32, within each document.
      window: sliding window in tokens: keys at distance >= window are not seen.

    Returns:
      [B, T, N, H] in q's dtype. Scores and softmax are float32.
    """

    def blockwise(q: jax.Array, k: jax.Array, v: jax.Array, packed: Packed) -> jax.Array:
        return attention(q, k, v, packed.mask(), position_BT, window=window)

    if not _has_kernel(q_BTNH, packed.mesh):
        return blockwise(q_BTNH, k_BTKH, v_BTKH, packed)
    kernels = {"tpu": functools.partial(_on_mesh, functools.partial(splash, window=window))}
    length, head_dim = q_BTNH.shape[1], q_BTNH.shape[3]
    sees_all = window is None or window >= length  # of documents that are no longer than this
    is_fit = sees_all and has_triton() and gpu_attention.supports(head_dim, length)
    if is_fit and _jax_kernel() is not None:
        kernels["cuda"] = functools.partial(_on_mesh, triton)
    return jax.lax.platform_dependent(q_BTNH, k_BTKH, v_BTKH, packed, default=blockwise, **kernels)


def _has_kernel(q_BTNH: jax.Array, mesh: Mesh | None) -> bool:
    """Whether kernels can take it: their products are in bfloat16, their blocks whole."""
    B, T, _, _ = q_BTNH.shape
    devices = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return q_BTNH.dtype == jnp.bfloat16 and T % _LANES == 0 and B % devices == 0


def _on_mesh(
    function: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    packed: Packed,
) -> jax.Array:
    """Every device its own rows and, where "tensor" divides the keys' heads, its own heads."""
    mesh = packed.mesh
    if mesh is None or mesh.size == 1:
        return function(q_BTNH, k_BTKH, v_BTKH, packed.segment_BT)
    heads = "tensor" if k_BTKH.shape[2] % mesh.shape["tensor"] == 0 else None
    rows = ("data", "fsdp")
    spec = PartitionSpec(rows, None, heads, None)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(spec, spec, spec, PartitionSpec(rows)),
        out_specs=spec,
        check_vma=False,
    )(q_BTNH, k_BTKH, v_BTKH, packed.segment_BT)


def splash(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_BT: jax.Array,
    *,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`packed_attention` as a TPU kernel, on one device.

    Args:
      q_BTNH, k_BTKH, v_BTKH: see there; 128 divides T.
      segment_BT: int, see `Packed`.
      window: see there.
      interpret: run the kernel's operations one by one, on any platform.
    """
    # Imported here, as that takes a while, and decoding needs none of this.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    T, N, H = q_BTNH.shape[1:]
    size = next(size for size in _BLOCKS if T % size == 0)
    names = ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    blocks: dict[str, Any] = {f"block_{name}": size for name in names}
    mask: Any = splash_attention_mask.CausalMask((T, T))
    if window is not None:
        mask = splash_attention_mask.LocalMask((T, T), (window - 1, 0), offset=0)
    # JAX's kernel relies on promotion, which the caller may have forbidden.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kernel: Any = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([mask] * N),
            block_sizes=splash_attention_kernel.BlockSizes(**blocks),
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        q_BTNH = (q_BTNH.astype(jnp.float32) * H**-0.5).astype(q_BTNH.dtype)
        q, k, v = (x.swapaxes(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
        segments = splash_attention_kernel.SegmentIds(segment_BT, segment_BT)
        return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)


def triton(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_BT: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`packed_attention` as a GPU kernel, on one device; it knows no window.

    Args:
      q_BTNH, k_BTKH, v_BTKH: see there; 64 divides T, H is a power of two.
      segment_BT: int, see `Packed`.
      interpret: run the kernel's operations one by one, on any platform.
    """
    module, (N, H) = _jax_kernel(), q_BTNH.shape[2:]
    assert module is not None
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k_BTKH, v_BTKH))
    names = ("q", "k", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    blocks: dict[str, Any] = {f"block_{name}": _TRITON_BLOCK for name in names}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # Positional: its custom gradient counts the arguments.
        return module.mha(
            q_BTNH, k, v, segment_BT, H**-0.5, True, module.BlockSizes(**blocks), "triton", None, 2,
            None, interpret,
        )  # fmt: skip


def _jax_kernel() -> Any:
    """JAX's module, imported when needed, as that takes a while; None: it no longer exists."""
    try:
        return importlib.import_module("jax.experimental.pallas.ops.gpu.attention")
    except ImportError:
        return None
