"""How much memory loading takes at its peak (medusa_jax/io/hf/weights.py)."""

import subprocess
import sys
from pathlib import Path

import pytest


def measure(folder: Path, stored: str, target: str) -> float:
    """Peak growth of a fresh process while it loads the folder, in units of the result's size."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), stored, target],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout)


# Zeros in a sparse file cost no disk. The growth is counted from the current memory, not from
# the peak so far, so that importing JAX cannot hide anything. VmHWM and not ru_maxrss, which
# starts from the peak of the process that started this one.
MEASURE = """
import json, math, re, sys
from pathlib import Path
import jax, jax.numpy as jnp
from medusa_jax.config import LlamaConfig
from medusa_jax.io.hf.weights import abstract_params, hf_keys, load_safetensors
from flax.traverse_util import flatten_dict

def memory(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(field + r":\\s*(\\d+) kB", status).group(1))

folder, stored, target = Path(sys.argv[1]), sys.argv[2], jnp.dtype(sys.argv[3])
config = LlamaConfig(30000, 1024, 4096, 4, 8, 8, 128, 512)
header, offset, count = {}, 0, 0
keys = hf_keys(config)
for path, x in flatten_dict(abstract_params(config, target)).items():
    shape = x.shape
    size = math.prod(shape) * {"F32": 4, "F16": 2, "BF16": 2}[stored]
    entry = {"dtype": stored, "shape": shape, "data_offsets": [offset, offset + size]}
    header[keys[path]] = entry
    offset, count = offset + size, count + math.prod(shape)
text = json.dumps(header).encode()
with open(folder / "model.safetensors", "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(file.tell() + offset)
jax.block_until_ready(jnp.zeros(8) + 1)
before = memory("VmRSS")
params = load_safetensors(folder, config, target)
print((memory("VmHWM") - before) / (count * target.itemsize))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("stored", "target"), [("F32", "bfloat16"), ("BF16", "bfloat16"), ("F16", "float32")]
)
def test_peak_memory(tmp_path, stored, target):
    ratio = measure(tmp_path, stored, target)
    assert 0.95 < ratio < 1.3  # below 0.95 the measurement itself would be broken
