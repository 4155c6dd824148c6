"""What a kernel that writes the cache has to do, on any platform: numpy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.mesh import make_mesh
from tests.medusa_jax.nn.kernels.device import INTERPRETED, skip_on_one_device


def random_case(seed, batch, tokens, slots, heads=3, dim=4, nodes=7):
    """A cache, the keys and values of some nodes, and which of them it gets."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    cache = normal(batch, heads, dim, slots), normal(batch, heads, slots, dim)
    new = normal(batch, nodes, heads, dim), normal(batch, nodes, heads, dim)
    return *cache, *new, rng.integers(0, nodes, (batch, tokens), dtype=np.int32)


def written(k, v, new_k, new_v, nodes, start):
    k, v = k.copy(), v.copy()
    for b, first in enumerate(start):
        for a, node in enumerate(nodes[b]):
            k[b, :, :, first + a] = new_k[b, node]
            v[b, :, first + a] = new_v[b, node]
    return k, v


def check_starts(fused_append, tokens, slots, dim, nodes):
    starts = sorted({0, 3, 15, 16, slots - tokens})
    starts = [start for start in starts if start + tokens <= slots]
    case = random_case(tokens, len(starts), tokens, slots, 2, dim, nodes)
    found = fused_append(*case, np.asarray(starts, np.int32), interpret=INTERPRETED)
    for got, wanted in zip(found, written(*case, starts), strict=True):
        np.testing.assert_array_equal(got, wanted)


def check_dtype(fused_append):
    case = random_case(0, 1, 2, 20)
    half = [jnp.asarray(x, jnp.bfloat16) for x in case[:2]]
    k, v = fused_append(*half, *case[2:], np.asarray([4], np.int32), interpret=INTERPRETED)
    wanted = written(*(np.asarray(x, np.float32) for x in half), *case[2:], [4])
    for got, exact in zip((k, v), wanted, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got, jnp.asarray(exact, jnp.bfloat16))


def check_mesh(fused_append):
    skip_on_one_device()
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    case = random_case(0, 2, 3, 32, heads=4)
    spec = jax.sharding.PartitionSpec
    cache, new = spec(None, "tensor"), spec(None, None, "tensor")
    shardings = [jax.sharding.NamedSharding(mesh, x) for x in (cache, cache, new, new, spec())]
    arrays = [jax.device_put(x, y) for x, y in zip(case, shardings, strict=True)]
    start = np.asarray([7, 14], np.int32)
    call = jax.jit(lambda *arrays: fused_append(*arrays, start, mesh, interpret=INTERPRETED))
    program = call.lower(*arrays).compile()
    for got, wanted in zip(program(*arrays), written(*case, start), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.sharding.is_equivalent_to(shardings[0], 4)
    assert "all-gather" not in program.as_text()
