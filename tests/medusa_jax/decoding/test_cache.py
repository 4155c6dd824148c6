"""The cache writes what it is told, where it is told, for every row on its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import LlamaConfig
from medusa_jax.decoding import cache as kv_cache
from medusa_jax.gpu import saying_whether_triton
from medusa_jax.plan.topology import lowering_for

CONFIG = LlamaConfig(
    vocab_size=8,
    hidden_size=8,
    intermediate_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    max_position=16,
)


def new_tokens(rng, batch, count):
    def block():
        return jnp.asarray(rng.normal(size=(batch, count, 2, 4)), jnp.float32)

    return tuple((block(), block()) for _ in range(2))


def test_append_is_ragged_and_keeps_what_counts():
    rng = np.random.default_rng(0)
    cache = kv_cache.empty_cache(CONFIG, 2, 10, jnp.float32)
    first, second = new_tokens(rng, 2, 4), new_tokens(rng, 2, 3)
    cache = kv_cache.append(cache, first, jnp.asarray([4, 1], jnp.int32))
    cache = kv_cache.append(cache, second, jnp.asarray([2, 3], jnp.int32))
    np.testing.assert_array_equal(cache.length_B, [6, 4])
    for layer in range(2):
        for part in range(2):
            slots_first = (0, 3, 1, 2) if part == 0 else (0, 2, 1, 3)
            stored = np.asarray(cache.layers[layer][part]).transpose(slots_first)
            a, b = np.asarray(first[layer][part]), np.asarray(second[layer][part])
            np.testing.assert_array_equal(stored[0, :6], np.concatenate([a[0, :4], b[0, :2]]))
            np.testing.assert_array_equal(stored[1, :4], np.concatenate([a[1, :1], b[1, :3]]))


def test_append_takes_the_nodes_that_each_row_names():
    new = new_tokens(np.random.default_rng(1), 2, 5)
    nodes = np.asarray([[0, 3, 4], [0, 2, 2]], np.int32)
    cache = kv_cache.empty_cache(CONFIG, 2, 10, jnp.float32)
    num_B = jnp.asarray([3, 3], jnp.int32)
    cache = kv_cache.append(cache, new, num_B, nodes_BA=jnp.asarray(nodes))
    for layer in range(2):
        for part in range(2):
            slots_first = (0, 3, 1, 2) if part == 0 else (0, 2, 1, 3)
            stored = np.asarray(cache.layers[layer][part]).transpose(slots_first)
            for b in range(2):
                np.testing.assert_array_equal(
                    stored[b, :3], np.asarray(new[layer][part])[b, nodes[b]]
                )


def test_capacity():
    """What no CPU keeps fills the registers of a TPU, also when it grows."""
    assert kv_cache.empty_cache(CONFIG, 1, 12, jnp.float32).capacity == 12
    for wanted, slots in ((12, 128), (128, 128), (1028, 1152)):
        cache = kv_cache.empty_cache(CONFIG, 1, wanted, jnp.bfloat16)
        assert cache.capacity == slots
        assert kv_cache.resized(cache, slots + 1).capacity == slots + 128


def test_a_smaller_cache_has_the_first_slots():
    new = new_tokens(np.random.default_rng(1), 2, 6)
    cache = kv_cache.empty_cache(CONFIG, 2, 10, jnp.float32)
    cache = kv_cache.append(cache, new, jnp.asarray([6, 5], jnp.int32))
    small = kv_cache.resized(cache, 7)
    assert small.capacity == 7
    for (k, v), (small_k, small_v) in zip(cache.layers, small.layers, strict=True):
        np.testing.assert_array_equal(small_k, k[..., :7])
        np.testing.assert_array_equal(small_v, v[:, :, :7])


def test_insert_starts_single_rows_anew():
    """Rows 2 and 0 of three get prompts, row 1 and what lies beyond the prompts stay."""
    rng = np.random.default_rng(2)
    cache = kv_cache.empty_cache(CONFIG, 3, 10, jnp.float32)
    old, new = new_tokens(rng, 3, 6), new_tokens(rng, 2, 4)
    cache = kv_cache.append(cache, old, jnp.asarray([6, 5, 4], jnp.int32))
    slots = jnp.asarray([2, 0], jnp.int32)
    prompts = kv_cache.of_prompts(new, jnp.asarray([4, 3], jnp.int32), jnp.float32)
    cache = kv_cache.insert(cache, prompts, slots)
    np.testing.assert_array_equal(cache.length_B, [3, 5, 4])
    for layer in range(2):
        for part in range(2):
            slots_first = (0, 3, 1, 2) if part == 0 else (0, 2, 1, 3)
            stored = np.asarray(cache.layers[layer][part]).transpose(slots_first)
            np.testing.assert_array_equal(stored[[2, 0], :4], new[layer][part])
            np.testing.assert_array_equal(stored[1, :6], old[layer][part][1])
            np.testing.assert_array_equal(stored[:, 4:6], old[layer][part][:, 4:6])


def test_bfloat16_is_kept_wider_on_a_cpu_only():
    assert kv_cache.storage_dtype("bfloat16", "cpu") == "float32"
    assert kv_cache.storage_dtype("bfloat16", "gpu") == "bfloat16"
    assert kv_cache.storage_dtype("bfloat16", "tpu") == "bfloat16"
    assert kv_cache.storage_dtype("float32", "cpu") == "float32"


def test_a_grown_cache_holds_what_it_held_and_takes_more():
    rng = np.random.default_rng(3)
    small = kv_cache.empty_cache(CONFIG, 2, 8, jnp.float32)
    large = kv_cache.empty_cache(CONFIG, 2, 12, jnp.float32)
    first, second = new_tokens(rng, 2, 6), new_tokens(rng, 2, 5)
    num_B = jnp.asarray([6, 4], jnp.int32)
    small = kv_cache.resized(kv_cache.append(small, first, num_B), 12)
    large = kv_cache.append(large, first, num_B)
    assert small.capacity == 12
    for a, b in zip(small.layers, large.layers, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    small, large = (kv_cache.append(cache, second, num_B - 1) for cache in (small, large))
    for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("platform", "tokens", "head_dim", "has_kernel"),
    [
        ("tpu", 1, 4, True),
        ("tpu", 16, 4, True),
        ("tpu", 17, 4, False),
        ("cuda", 16, 16, True),
        ("cuda", 17, 16, False),
        ("cuda", 1, 4, False),
        ("cpu", 16, 16, False),
    ],
)
def test_few_tokens_are_written_by_a_kernel(platform, tokens, head_dim, has_kernel):
    """Where there is one that takes as many, and heads of this size."""
    config = dataclasses.replace(CONFIG, num_layers=1, head_dim=head_dim)
    cache = kv_cache.empty_cache(config, 2, 32, jnp.float32)
    new = ((jnp.zeros((2, tokens, 2, head_dim)),) * 2,)
    with saying_whether_triton(True), lowering_for("NVIDIA A100-SXM4-80GB"):
        traced = jax.jit(kv_cache.append).trace(cache, new, cache.length_B)
        program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("custom_call" in program) is has_kernel
