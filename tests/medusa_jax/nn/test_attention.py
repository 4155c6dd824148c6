"""Attention of tokens among themselves against one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn import attention as module
from medusa_jax.nn.attention import attention


def dense_reference(q, k, v, mask, position, prefix_k, prefix_v, length, window):
    """Row by row, head by head: concatenated keys, one softmax."""
    B, T, N, H = q.shape
    K = k.shape[2]
    mask = np.broadcast_to(mask, (B, T, T))  # one for all rows, or one for each
    out = np.zeros((B, T, N, H))
    for b in range(B):
        keys = np.concatenate([prefix_k[b, :, : length[b]], k[b].swapaxes(0, 1)], axis=1)
        values = np.concatenate([prefix_v[b, :, : length[b]], v[b].swapaxes(0, 1)], axis=1)
        place = np.concatenate([np.arange(length[b]), position[b]])
        for t in range(T):
            seen = np.concatenate([np.ones(length[b], bool), mask[b, t]])
            if window is not None:
                seen &= position[b, t] - place < window
            for n in range(N):
                head = n // (N // K)
                score = keys[head] @ q[b, t, n] / np.sqrt(H)
                score = np.where(seen, score, -np.inf)
                weight = np.exp(score - score.max())
                out[b, t, n] = weight @ values[head] / weight.sum()
    return out


def random_tree(rng, nodes):
    parent = [0] + [int(rng.integers(0, n)) for n in range(1, nodes)]
    mask = np.eye(nodes, dtype=bool)
    depth = np.zeros(nodes, np.int32)
    for n in range(1, nodes):
        mask[n] |= mask[parent[n]]
        depth[n] = depth[parent[n]] + 1
    return mask, depth


def random_case(seed, nodes, kv_heads, groups, slots, batch=2, dim=4):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32) * 2  # noqa: E731
    mask, depth = random_tree(rng, nodes)
    length = rng.integers(0, slots + 1, size=batch).astype(np.int32)
    return {
        "q": normal(batch, nodes, kv_heads * groups, dim),
        "k": normal(batch, nodes, kv_heads, dim),
        "v": normal(batch, nodes, kv_heads, dim),
        "mask": mask,
        "position": length[:, None] + depth[None],
        "prefix_k": normal(batch, kv_heads, slots, dim),
        "prefix_v": normal(batch, kv_heads, slots, dim),
        "length": length,
    }


def alone(case, window=None):
    """Output and gradients without a prefix, in a program of its own."""

    def weighted(q, k, v):
        mask, position = jnp.asarray(case["mask"])[None], jnp.asarray(case["position"])
        out = attention(q, k, v, mask, position, window=window)
        return (out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)).sum()

    arrays = [jnp.asarray(case[name]) for name in ("q", "k", "v")]
    return jax.jit(jax.value_and_grad(weighted, (0, 1, 2))).lower(*arrays).compile(), arrays


def dense_gradients(case, window=None):
    """Value and gradients of `alone`'s sum by the chain rule of one dense softmax, in float64."""
    q, k, v = (np.asarray(case[name], np.float64) for name in "qkv")
    out = np.zeros_like(q)
    weight = np.cos(np.arange(q.size)).reshape(q.shape)
    gradients = [np.zeros_like(x) for x in (q, k, v)]
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        head = n // (q.shape[2] // k.shape[2])
        seen = case["mask"].copy()
        if window is not None:
            seen &= case["position"][b][:, None] - case["position"][b][None] < window
        score = q[b, :, n] @ k[b, :, head].T / np.sqrt(q.shape[-1])
        p = np.where(seen, np.exp(score), 0)
        p /= p.sum(-1, keepdims=True)
        out[b, :, n] = p @ v[b, :, head]
        of_p = weight[b, :, n] @ v[b, :, head].T
        of_score = p * (of_p - (p * of_p).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
        gradients[0][b, :, n] += of_score @ k[b, :, head]
        gradients[1][b, :, head] += of_score.T @ q[b, :, n]
        gradients[2][b, :, head] += p.T @ weight[b, :, n]
    return (out * weight).sum(), gradients


# 11 queries in blocks of 4: what fills the last block must not spoil the gradients.
@pytest.mark.parametrize(("queries", "block"), [(12, 1), (12, 4), (12, 11), (11, 4), (12, 12)])
@pytest.mark.parametrize("window", [None, 3])
def test_blocks_of_queries_equal_the_dense_softmax(monkeypatch, queries, block, window):
    case = random_case(13, queries, 2, 2, 1)
    monkeypatch.setattr(module, "_QUERY_BLOCK", block)
    compiled, arrays = alone(case, window)
    value, gradients = compiled(*arrays)
    wanted, wanted_gradients = dense_gradients(case, window)
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
    for got, exact in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_long_sequences_never_have_all_their_scores(monkeypatch):
    T, N = 512, 4
    case = random_case(17, 2, 1, N, 1) | {"mask": np.tri(T, dtype=bool)}
    rng = np.random.default_rng(0)
    for name, heads in (("q", N), ("k", 1), ("v", 1)):
        case[name] = rng.normal(size=(1, T, heads, 4)).astype(np.float32)
    case["position"] = np.arange(T, dtype=np.int32)[None]
    peak = {}
    for block in (T, T // 8):
        monkeypatch.setattr(module, "_QUERY_BLOCK", block)
        peak[block] = alone(case)[0].memory_analysis().temp_size_in_bytes
    scores = 4 * N * T * T
    assert peak[T] >= scores
    assert peak[T // 8] < peak[T] / 4, peak


@pytest.mark.parametrize("window", [None, 3, 6])
@pytest.mark.parametrize(("queries", "block"), [(1, 8), (8, 8), (9, 4), (24, 4), (17, 1)])
def test_without_a_mask_tokens_see_what_precedes_them(monkeypatch, queries, block, window):
    """Padded rows of different lengths, whose positions are their own."""
    monkeypatch.setattr(module, "_QUERY_BLOCK", block)
    case = random_case(19, queries, 2, 2, 1) | {"mask": np.tri(queries, dtype=bool)}
    case["length"] = np.zeros(2, np.int32)
    case["position"] = np.arange(queries, dtype=np.int32)[None] + np.array([[0], [5]], np.int32)
    arrays = [jnp.asarray(case[name]) for name in "qkv"]
    found = jax.jit(lambda *x: attention(*x, None, jnp.asarray(case["position"]), window=window))
    expected = dense_reference(**{k: np.asarray(v) for k, v in case.items()}, window=window)
    np.testing.assert_allclose(found(*arrays), expected, rtol=2e-5, atol=2e-5)


def test_a_long_prompt_has_no_array_of_all_pairs():
    T = 4096
    shapes = [jax.ShapeDtypeStruct((1, T, heads, 4), jnp.float32) for heads in (2, 1, 1)]
    position_BT = jnp.arange(T, dtype=jnp.int32)[None]
    run_all = jax.jit(lambda *x: attention(*x, None, position_BT))
    memory = run_all.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < T * T
