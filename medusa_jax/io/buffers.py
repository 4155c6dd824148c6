"""Memory for parameters, which JAX's CPU backend adopts as it is: in huge pages where it can.

Weights are read from one end to the other in every step, page by page. NumPy asks Linux for pages
of 2 MB in place of 4 kB, but only for arrays of 4 MB and more, which the matrices of a small model
are not; so they share blocks that are. Smaller arrays do not: a scale that is kept while the matrix
beside it is quantised would keep the whole block.
"""

import math
import threading
import weakref

import numpy as np

_ALIGNMENT = 64  # bytes: JAX's CPU backend adopts arrays aligned so, and copies all others
_BLOCK = 64 << 20  # bytes
_SMALL, _LARGE = 1 << 18, 16 << 20  # bytes: what lies between shares blocks


def aligned_buffer(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """An uninitialised array that the CPU backend can adopt without a copy, and its flat view.

    A block lives as long as an array in it does.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    make = _BLOCKS.take if _SMALL <= nbytes <= _LARGE else _alone
    buffer = make(nbytes + _ALIGNMENT)
    offset = -buffer.ctypes.data % _ALIGNMENT
    flat = buffer[offset : offset + nbytes].view(dtype)
    return flat.reshape(shape), flat


def _alone(nbytes: int) -> np.ndarray:
    return np.empty(nbytes, np.uint8)


class _Blocks:
    """Hands out parts of a block one after the other, and none twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: weakref.ref[np.ndarray] | None = None
        self._used = 0

    def take(self, nbytes: int) -> np.ndarray:
        """uint8 [nbytes] of the last block, or of a new one where that has no room."""
        with self._lock:
            block = self._last and self._last()
            if block is None or self._used + nbytes > block.size:
                block, self._used = _alone(_BLOCK), 0
                self._last = weakref.ref(block)
            part = block[self._used : self._used + nbytes]
            self._used += nbytes
        return part


_BLOCKS = _Blocks()
