"""Shapes of batches, seeds, and models on other devices or a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.buckets import batch_shape, bucket
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows
from tests.medusa_jax.tiny import tiny_lm


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        (1, 1, 1),
        (1, 32, 32),
        (32, 32, 32),
        (33, 32, 48),
        (48, 32, 48),
        (49, 32, 64),
        (64, 32, 64),
        (65, 32, 96),
        (97, 32, 128),
        (4096, 256, 4096),
        (4097, 256, 6144),
    ],
)
def test_buckets_are_powers_of_two_and_three_quarters_of_them(size, smallest, expected):
    assert bucket(size, smallest) == expected


def test_a_batch_is_as_wide_as_its_longest_prompt_and_holds_its_longest_row():
    assert batch_shape(20, 200) == (32, 256)
    assert batch_shape(33, 257) == (48, 384)
    assert batch_shape(4000, 4096) == (4096, 4096)  # a whole context takes no more than that
    assert batch_shape(300, 301) == (384, 384)


def test_room_for_a_draft_is_within_the_bucket_or_a_vector_more():
    assert batch_shape(20, 252, 4) == (32, 256)
    assert batch_shape(20, 253, 4) == (32, 256 + 16)
    assert batch_shape(4000, 4096, 4) == (4096, 4096 + 16)
    assert batch_shape(4000, 4096, 17) == (4096, 4096 + 32)


def test_the_cache_is_sized_by_rows_and_not_by_the_worst_of_each(lm):
    """A long prompt with a short budget beside a short prompt with a long one."""
    long_prompt = [1 + i % 20 for i in range(190)]
    batch = make_runtime(lm).start(make_request([10, 190]), [long_prompt, [5]])
    assert batch.state.cache.capacity == 256


def test_a_full_context_is_used_to_its_last_token(lm):
    prompt = [1 + i % 20 for i in range(200)]
    for tree in ("mc_sim_7b_63", "chain:0"):
        runtime = make_runtime(lm.with_tree(tree))
        state = runtime.advance(runtime.start(make_request([56]), [prompt])).state
        assert int(state.num_new_B[0]) == 56  # 200 + 56 = the context and the bucket
        text = rows(state)[0]
    plain = decoded(lm.with_tree("chain:0"), [prompt + text[:50]], [6])
    assert rows(plain)[0] == text[50:]


def test_seeds_below_2_to_the_32_give_the_keys_of_jax_random_key():
    for seed in (0, 1, 2**31 + 5, 2**32 - 1):
        expected = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.key(seed), jnp.asarray([0, 7], jnp.uint32)
        )
        key_B2 = make_request([1, 1], seed=seed, numbers=[0, 7]).key_B2
        np.testing.assert_array_equal(key_B2, jax.random.key_data(expected))


def test_seeds_of_64_bits_are_all_different():
    seeds = [5, 5 + 2**32, 5 + 2**63, 2**63, 2**64 - 1, 2**32]
    keys = {make_request([1], seed=seed).key_B2.tobytes() for seed in seeds}
    assert len(keys) == len(seeds)


def test_trees_that_the_heads_cannot_fill_are_refused_before_anything_is_compiled(lm):
    wide = build_tree([[rank] for rank in range(25)])  # the vocabulary has 24 tokens
    with pytest.raises(UserError, match="rank 24, the heads propose only 24 tokens"):
        make_runtime(lm, wide)
    with pytest.raises(UserError, match="rank 24"):
        lm.with_tree(wide)
    with pytest.raises(UserError, match="needs 5 heads, the model has 4"):
        make_runtime(lm, build_tree([[0] * n for n in range(1, 6)]))


def test_the_platform_is_that_of_the_parameters(lm):
    assert lm.platform == "cpu"
    device = jax.devices()[3]
    moved = dataclasses.replace(
        lm,
        params=jax.device_put(lm.params, device),
        heads_params=jax.device_put(lm.heads_params, device),
    )
    state = decoded(moved, PROMPTS, [12] * 3)
    assert state.output_BO.devices() == {device}
    assert rows(state) == rows(decoded(lm, PROMPTS, [12] * 3))


@pytest.mark.parametrize("where", ["device", "mesh"])
def test_heads_follow_the_backbone_wherever_they_were_made(lm, where):
    """Fresh heads lie on the default device, or in NumPy arrays."""
    if where == "device":
        params = jax.device_put(lm.params, jax.devices()[3])
    else:
        mesh = make_mesh(data=1, tensor=2)
        params = jax.device_put(lm.params, param_shardings(mesh, lm.params))
    for heads in (lm.heads_params, jax.tree.map(np.asarray, lm.heads_params)):
        mixed = dataclasses.replace(lm, params=params, heads_params=heads)
        assert rows(decoded(mixed, PROMPTS, [9] * 3)) == rows(decoded(lm, PROMPTS, [9] * 3))


@pytest.mark.parametrize("shape", [{"tensor": 2}, {"fsdp": 2, "tensor": 2}, {"data": 2}])
def test_on_a_mesh_the_host_reads_whole_arrays_and_the_cache_is_split(lm, shape):
    mesh = make_mesh(**({"data": 1} | shape))
    spread = dataclasses.replace(
        lm,
        params=jax.device_put(lm.params, param_shardings(mesh, lm.params)),
        heads_params=jax.device_put(lm.heads_params, param_shardings(mesh, lm.heads_params)),
    )
    runtime = make_runtime(spread)
    batch = runtime.advance(runtime.start(make_request([12] * 3), PROMPTS), 2)
    state = runtime.advance(batch).state
    for read in (state.done_B, state.num_new_B, state.output_BO, state.draft.token_BR):
        assert read.is_fully_replicated
    keys = state.cache.layers[0][0]
    assert keys.sharding.shard_shape(keys.shape)[1] == 2 // shape.get("tensor", 1)
    assert rows(state) == rows(decoded(lm, PROMPTS, [12] * 3))
