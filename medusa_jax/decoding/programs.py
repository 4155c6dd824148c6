"""Compiled programs, found by all that compilation depends on; compiling is timed separately.

This is `jax.jit`'s own cache with a clock: a program is shared by all models, trees and calls whose
arrays agree in structure, shape, dtype and sharding.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from medusa_jax.gpu import compiler_options, product_options
from medusa_jax.sharding import logical_sharding
from medusa_jax.tpu import saying_which

# What `jax.jit` is told of the functions of `decoding.prefill` and `decoding.step`.
_DONATED = {"decode": ("state",), "insert": ("state",), "extend_rows": ("cache",)}
_LOOKUP = threading.Lock()  # two threads that miss a program at once should get the same one
_CACHE_AXES = (None, "heads", None, None)  # of the keys and of the values
# How much of a matrix a product has on the chip at once: by default 16 MB of a v5p's 64 MB.
# With 48 its compiler counts a seventh fewer cycles; a v5e (128 MB) is slower with more.
_WINDOW = {"xla_tpu_scoped_vmem_limit_kib": str(48 * 1024)}
_TPU_OPTIONS = {"TPU v5": _WINDOW, "TPU v5p": _WINDOW}
# From this size on (MB) a product on a mesh becomes a loop over parts of its matrix, which hides
# the gathering of its rows: a copy of the LM head at every step, to hide the gathering of 64 rows.
_NO_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": str(10**6)}


def abstract(tree: Any) -> Any:
    """What a program depends on in its arrays: shapes, dtypes and shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def compiled(
    function: Callable[..., Any], static: tuple[Any, ...], mesh: Mesh | None, arrays: Any
) -> tuple[Any, float]:
    """The program of a function for some arrays.

    Args:
      function: of `decoding.prefill` or `decoding.step`; a bound `functools.partial` would never
        be found again.
      static: its leading positional arguments and, last, a tuple of keyword ones: (name, value).
      mesh: the results' shardings follow from it: keys and values lie where their heads are
        computed, everything else is whole on every device, where the host can read it.
      arrays: tuple of abstract arguments (see `abstract`).

    Returns:
      The program, which takes the arrays, and the seconds that the caller waited for the compiler.
    """
    leaves, structure = jax.tree.flatten(arrays)
    with _LOOKUP:
        program = _program(function, static, mesh, structure, tuple(leaves))
    return program.get()


class _Program:
    """A program that is compiled by whoever wants it first; others wait for it."""

    def __init__(self, compile: Callable[[], Any]):
        self._compile, self._compiled = compile, None
        self._lock = threading.Lock()

    def get(self) -> tuple[Any, float]:
        """The program, and the seconds that it has kept the caller waiting."""
        if self._compiled is not None:
            return self._compiled, 0.0
        begin = time.perf_counter()
        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile()
        return self._compiled, time.perf_counter() - begin


def forget() -> None:
    """Frees all programs, as `jax.clear_caches` frees those of `jax.jit`."""
    _program.cache_clear()


@functools.lru_cache(maxsize=512)
def _program(
    function: Any, static: tuple[Any, ...], mesh: Mesh | None, structure: Any, leaves: Any
) -> _Program:
    return _Program(functools.partial(_compile, function, static, mesh, structure, leaves))


def _compile(
    function: Any, static: tuple[Any, ...], mesh: Mesh | None, structure: Any, leaves: Any
) -> Any:
    *positional, keywords = static
    arrays = jax.tree.unflatten(structure, leaves)
    options: dict[str, Any] = {
        "static_argnums": tuple(range(len(positional))),
        "static_argnames": tuple(name for name, _ in keywords),
        "donate_argnames": _DONATED.get(function.__name__, ()),
        "compiler_options": compiler_options()
        | product_options(positional[0].dtype)
        | _tpu_options(_device_kind(leaves), mesh),
    }
    with saying_which(_device_kind(leaves)):
        if mesh is not None:
            options["out_shardings"] = result_shardings(
                mesh,
                jax.eval_shape(lambda *a: function(*positional, *a, **dict(keywords)), *arrays),
            )
        traced = jax.jit(function, **options).trace(*positional, *arrays, **dict(keywords))
    return traced.lower().compile()


def _tpu_options(kind: str, mesh: Mesh | None) -> dict[str, Any]:
    """What the compiler is to be told for this kind of device, if it is a TPU."""
    if not kind.startswith("TPU"):
        return {}
    return _TPU_OPTIONS.get(kind, {}) | (_NO_LOOPS if mesh is not None else {})


def _device_kind(leaves: Any) -> str:
    """What JAX calls the devices that the arrays are on."""
    return next(iter(leaves[0].sharding.device_set)).device_kind


def results(program: Any) -> Any:
    """What a program gives, as `abstract` arguments of the next one."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        program.out_info,
        program.output_shardings,
    )


def result_shardings(mesh: Mesh, shapes: Any) -> Any:
    """Where the results of programs lie: those of a state, where its next program takes it."""

    def of(path: tuple[Any, ...], leaf: Any) -> Any:
        names = {getattr(key, "name", None) for key in path}
        axes = _CACHE_AXES if "layers" in names else (None,) * leaf.ndim
        return logical_sharding(mesh, axes, leaf.shape)

    return jax.tree_util.tree_map_with_path(of, shapes)
