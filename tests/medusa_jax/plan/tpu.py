"""For tests that compile for TPUs: `pytest -m tpu_compiler` runs them, and nothing else.

In processes of their own, since JAX's profiler, which other tests start, crashes where the compiler
has been loaded without a TPU.
"""

import pytest

needs_tpu_compiler = pytest.mark.tpu_compiler
