"""Small programs for devices that are not there, whose costs are known by hand."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from medusa_jax.nn.packed_attention import Packed, packed_attention
from medusa_jax.nn.product import product
from medusa_jax.plan.build import build


def built(topology, function, arguments, **options):
    jitted = jax.jit(function, **options)
    return build(topology, lambda: jitted.lower(*arguments).compile(), {"arrays": arguments})


def on_one(topology, *shapes, dtype=jnp.bfloat16):
    here = SingleDeviceSharding(topology.devices[0])
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape in shapes]


def successor(topology, gib, **options):
    """One more than an array of so many GiB."""
    return built(topology, lambda x: x + 1, on_one(topology, (gib << 10, 1 << 19)), **options)


def product_of_rows(topology, rows, dtype=jnp.bfloat16):
    """Of so many rows of 4096 numbers with a matrix of 16384 x 4096, as the network has it."""
    x, w = on_one(topology, (rows, 4096), (16384, 4096), dtype=dtype)
    return built(topology, lambda x, w: product("XD,FD->XF", x, w, dtype).astype(dtype), [x, w])


def products_of_a_batch(topology):
    """32 products, each of 256 x 128 and 512 x 128 numbers."""
    q, k = on_one(topology, (32, 256, 128), (32, 512, 128))
    return built(topology, lambda q, k: jnp.einsum("nrh,nsh->nrs", q, k), [q, k])


def tensor_parallel_product(topology):
    """Two matrices cut along the same axis: one sum of float32 [64, 2048] in each of 3 trips."""
    mesh = Mesh(topology.devices, ("t",), axis_types=(AxisType.Auto,))

    def layer(x, w1, w2):
        y = jnp.einsum("xd,fd->xf", x, w1)
        return jax.lax.psum(jnp.einsum("xf,df->xd", y, w2, preferred_element_type=jnp.float32), "t")

    def work(x, w1, w2):
        def trip(x, _):
            return layer(x.astype(w1.dtype), w1, w2), None

        return jax.lax.scan(trip, x, length=3)[0]

    specs = (PartitionSpec(), PartitionSpec("t", None), PartitionSpec(None, "t"))
    mapped = jax.shard_map(work, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    shapes = ((64, 2048), (8192, 2048), (2048, 8192))
    dtypes = (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in zip(shapes, dtypes, specs, strict=True)
    ]
    return built(topology, mapped, arrays)


def attention_with_gradients(topology):
    """Two rows of 1024 tokens, 4 heads of 128 on 2 of keys: forward, and all its gradients."""
    q, k = on_one(topology, (2, 1024, 4, 128), (2, 1024, 2, 128))
    (number,) = on_one(topology, (2, 1024), dtype=jnp.int32)

    def total(q, k, v, segment, position):
        return packed_attention(q, k, v, Packed(segment), position).sum()

    return built(topology, jax.grad(total, (0, 1, 2)), [q, k, k, number, number])
