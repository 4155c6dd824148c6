"""Operations of matrix products in a program: two per multiplication and addition.

Everything else (sums, exponentials, comparisons) is left out: it is bound by memory.
"""

import functools
import json
import math
import re

from medusa_jax.plan.hlo import Computation, Instruction

_FLASH_BLOCK = 64  # of `medusa_jax.nn.packed_attention`
# Products of a block of queries with one of keys, by the phase of splash attention.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_EXACT = re.compile(r'operand_precision(?:=\{|":\[")highest', re.IGNORECASE)
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


def operations(computation: Computation, instruction: Instruction) -> int:
    """Operations of one run of an instruction: a product's, or what a kernel says of itself."""
    if instruction.opcode == "dot":
        dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return _product(computation, instruction, [int(d) for d in dims.split(",") if d])
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if instruction.opcode == "custom-call":
        return _kernel(computation, instruction)
    return 0


def is_exact(instruction: Instruction) -> bool:
    """Whether a product is exact to float32, as ours are where they compute in float32."""
    return _EXACT.search(instruction.text) is not None


def _product(computation: Computation, instruction: Instruction, contracted: list[int]) -> int:
    left = computation.arrays(instruction)[0][0]
    return 2 * instruction.results[0].size * math.prod(left.dims[axis] for axis in contracted)


def _kernel(computation: Computation, instruction: Instruction) -> int:
    """Operations of a kernel (its own estimate, or by name) or a library's product (by shapes)."""
    stated = instruction.attribute(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')
    if stated is not None:
        return int(stated)
    phase = instruction.attribute(r"/splash_mha_(fwd|dq|dkv)_")
    if phase is not None:
        return _SPLASH_PRODUCTS[phase] * _splash_product(computation, instruction)
    if "__gpu$xla.gpu.triton" in instruction.text:
        return _attention(computation, instruction)
    axes = instruction.attribute(r'"lhs_contracting_dimensions":(\[[^\]]*\])')
    if axes is None:
        return 0
    return _product(computation, instruction, [int(axis) for axis in json.loads(axes)])


def _splash_product(computation: Computation, instruction: Instruction) -> int:
    """Operations of one product in a TPU's splash attention, which does not say how many.

    Blocks of which the mask leaves nothing are not run. Which ones these are is a constant that the
    text leaves out. But ours are causal: a block of queries sees the block of keys at its own place
    and those before it; with a sliding window, no more than the shorter axis of the kernel's table
    has room for.
    """
    operands = [arrays[0] for arrays in computation.arrays(instruction)]
    reach, blocks = sorted(operands[0].dims[-2:])
    query = next(array.dims for array in operands if not array.dtype.startswith("s"))
    runs = sum(min(place + 1, reach) for place in range(blocks))
    return 2 * math.prod(query) * (query[-2] // blocks) * runs // blocks


def _attention(computation: Computation, instruction: Instruction) -> int:
    """Operations of a Triton attention kernel, which does not say; others have no products.

    JAX's flash attention leaves out the blocks of keys that come after those of the queries.
    """
    name = instruction.attribute(r'\bname = "(\w+)"')
    operands = [arrays[0].dims for arrays in computation.arrays(instruction)]
    if name == "tree_attention":  # medusa_jax.nn.kernels.gpu_attention
        rows, new, prefix = operands[2], operands[3], operands[7]
        return 4 * math.prod(rows) * (new[1] + prefix[2])
    products = {"mha_forward": 2, "mha_backward": 7}.get(name or "", 0)
    return products and products * math.prod(operands[0]) * (operands[0][1] + _FLASH_BLOCK)


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """TPUs write every product as a convolution, batches of products as windows with gaps."""
    labels = _LABELS.search(instruction.text)
    assert labels is not None, instruction.text
    left, right = (arrays[0].dims for arrays in computation.arrays(instruction))
    out = instruction.results[0].dims
    window = _window(instruction)
    spatial = [letter for letter in labels[3] if letter.isdigit()]
    pairs = 1
    for letter in spatial:
        axis = int(letter)
        sizes = (
            dims[label.index(letter)]
            for dims, label in zip((left, right, out), labels.groups(), strict=True)
        )
        pairs *= _pairs(*sizes, **{key: values[axis] for key, values in window.items()})
    batch, features = out[labels[3].index("b")], out[labels[3].index("f")]
    return 2 * batch * features * right[labels[2].index("i")] * pairs


def _window(instruction: Instruction) -> dict[str, list[int]]:
    """Per spatial axis: stride, low padding, gaps in the left and in the right operand."""
    match = _WINDOW.search(instruction.text)
    fields = dict(field.split("=") for field in match[1].split()) if match else {}
    rank = len(fields["size"].split("x")) if "size" in fields else 0

    def numbers(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * rank
        return [int(part.split("_")[0]) for part in fields[name].split("x")]

    return {
        "stride": numbers("stride", 1),
        "pad": numbers("pad", 0),
        "left_gap": numbers("lhs_dilate", 1),
        "right_gap": numbers("rhs_dilate", 1),
    }


@functools.lru_cache
def _pairs(
    left: int, right: int, out: int, *, stride: int, pad: int, left_gap: int, right_gap: int
) -> int:
    """How many places of the window, over all results, meet an element, not a gap or padding."""
    count = 0
    for place in range(right):
        shift = place * right_gap - pad
        for result in range(out):
            at = result * stride + shift
            count += at % left_gap == 0 and 0 <= at // left_gap < left
    return count
