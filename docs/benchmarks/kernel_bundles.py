"""Counts the instructions of the TPU's kernels, for which its compiler states no cycles.

  python docs/benchmarks/kernel_bundles.py --topology v5e:2x2 --kv_heads 32 --nodes 64

Needs libtpu (`pip install ".[plan]"`) and no TPU. A core issues a bundle of instructions per cycle
where it waits for nothing; what it waits for, memory above all, is not in these figures. libtpu
writes its final schedule into a folder when asked to, and every part of a kernel that depends on a
condition is counted on its own: what is done once for some heads, for every block of slots, and at
the end.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

DUMP = tempfile.TemporaryDirectory()
# Set before JAX and libtpu look at them.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={DUMP.name} --xla_jf_dump_llo_text=true",
}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from medusa_jax.errors import UserError  # noqa: E402
from medusa_jax.nn.kernels.tpu_append import fused_append  # noqa: E402
from medusa_jax.nn.kernels.tpu_attention import fused_attention  # noqa: E402
from medusa_jax.plan.topology import find_topology  # noqa: E402

BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(?:\w\w)?\s*: ")
BRANCH, PRODUCT = "sbr.rel", "vmatmul"


def shapes(flags: argparse.Namespace, sharding: Any) -> dict[str, tuple[Any, list[Any]]]:
    """The kernels, and what they take."""
    T, N, K = flags.nodes, flags.query_heads or flags.kv_heads, flags.kv_heads
    H, S = flags.head_dim, flags.slots

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    cache = [array(1, K, H, S), array(1, K, S, H)]
    angles = [array(1, T, H // 2, dtype=jnp.float32)] * 2
    places = [array(1, T, T, dtype=jnp.bool_), array(1, T, dtype=jnp.int32)]
    length = array(1, dtype=jnp.int32)
    new = [array(1, T, heads, H) for heads in (N, K, K)]
    chosen = array(1, min(T, 5), dtype=jnp.int32)
    return {
        "tree_attention": (fused_attention, [*new, *angles, *places, *cache, length]),
        "append_tokens": (fused_append, [*cache, *new[1:], chosen, length]),
    }


def parts(name: str) -> list[tuple[int, bool]]:
    """Bundles between two branches, and whether there are products among them."""
    (file,) = Path(DUMP.name).glob(f"*-{name}*-final_bundles.txt")
    found, bundles, has_product = [], 0, False
    for line in file.read_text(errors="ignore").splitlines():
        bundles += bool(BUNDLE.match(line))
        has_product |= PRODUCT in line
        if BRANCH in line:
            found.append((bundles, has_product))
            bundles, has_product = 0, False
    return [*found, (bundles, has_product)]


def check(flags: argparse.Namespace) -> None:
    """Refuses what no model has."""
    for name in ("nodes", "kv_heads", "head_dim", "slots"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}: it is 1 or more")
    if flags.query_heads % flags.kv_heads or flags.query_heads < 0:
        raise UserError(f"--query_heads is no multiple of --kv_heads, {flags.kv_heads}")
    if flags.slots % 128:
        raise UserError(f"--slots is {flags.slots}: a cache has a multiple of 128")
    if flags.head_dim % 2:
        raise UserError(f"--head_dim is {flags.head_dim}: rotations need an even one")


def main(flags: argparse.Namespace) -> None:
    """Compiles both kernels and prints a line for each."""
    check(flags)
    topology = find_topology(flags.topology)
    if topology.platform != "tpu":
        raise UserError(f"{flags.topology} is no TPU: name one, such as v5e:2x2")
    sharding = SingleDeviceSharding(topology.devices[0])
    named = {
        "tree_attention": ("new tokens", "a block of slots"),
        "append_tokens": ("keys", "values"),
    }
    for name, (kernel, arrays) in shapes(flags, sharding).items():
        jax.jit(kernel).lower(*arrays).compile()
        counted = parts(name)
        places = [place for place, (_, has_product) in enumerate(counted) if has_product]
        rows = [f"{title} {counted[p][0]}" for title, p in zip(named[name], places, strict=True)]
        if name == "tree_attention":
            rows.append(f"output {max(n for n, _ in counted[places[-1] + 1 :][:2])}")
        print(f"{name}: {', '.join(rows)}; {sum(n for n, _ in counted)} bundles in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Counts the instructions of the TPU's kernels.")
    parser.add_argument("--topology", default="v5e:2x2")
    for name, default in (("nodes", 64), ("kv_heads", 32), ("query_heads", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("head_dim", 128), ("slots", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    try:
        main(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
