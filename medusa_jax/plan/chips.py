"""Published figures of accelerators, by what JAX calls one device of theirs.

From vendors' data sheets (Google: cloud.google.com/tpu/docs, "System architecture" of each version;
NVIDIA: the data sheet of each card). TPU v2, v3 and 7x show every chip as two devices, which share
its figures. `wire` is what a device sends at most, all its links together, one way: a program that
uses fewer links takes longer. `clock` turns the TPU compiler's cycles into time.
"""

import dataclasses

_G, _T = 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can do at best.

    Attributes:
      flops: dense bfloat16 operations per second (T4 and V100 have no such units: float16).
      float32: exact float32 operations per second; None: not needed so far, or a TPU.
      hbm: bytes per second to and from its memory; None: not needed so far.
      wire: bytes per second that it sends to other devices of its kind.
      clock: cycles per second of a TPU's core.
    """

    flops: float
    hbm: float | None = None
    wire: float | None = None
    clock: float | None = None
    float32: float | None = None

    @property
    def exact_flops(self) -> float:
        """Operations per second of products that are exact to float32.

        A TPU has no units for them: it adds up six products of bfloat16 parts.
        """
        return self.flops / 6 if self.float32 is None else self.float32


# By the beginning of `device_kind`; the longest match counts.
_CHIPS = {
    "TPU v2": Chip(22.5 * _T),
    "TPU v3": Chip(61.5 * _T),
    "TPU v4": Chip(275 * _T, 1228 * _G, 300 * _G, 1.05 * _G),
    "TPU v4 lite": Chip(138 * _T, 614 * _G, None, 1.05 * _G),
    "TPU v5 lite": Chip(197 * _T, 819 * _G, 200 * _G, 1.5 * _G),
    "TPU v5e": Chip(197 * _T, 819 * _G, 200 * _G, 1.5 * _G),
    "TPU v5": Chip(459 * _T, 2765 * _G, 600 * _G, 1.75 * _G),
    "TPU v5p": Chip(459 * _T, 2765 * _G, 600 * _G, 1.75 * _G),
    "TPU v6 lite": Chip(918 * _T, 1640 * _G, 448 * _G, 1.75 * _G),
    "TPU v6e": Chip(918 * _T, 1640 * _G, 448 * _G, 1.75 * _G),
    "TPU7x": Chip(1153.5 * _T),
    "NVIDIA A100": Chip(312 * _T, 2039 * _G, 300 * _G, float32=19.5 * _T),
    "NVIDIA A10": Chip(125 * _T),
    "NVIDIA A10G": Chip(70 * _T),
    "NVIDIA B200": Chip(2250 * _T, 7672 * _G, 900 * _G, float32=75 * _T),
    "NVIDIA GH200": Chip(989.4 * _T),
    "NVIDIA H100": Chip(989.4 * _T, 3352 * _G, 450 * _G, float32=66.9 * _T),
    "NVIDIA H100 NVL": Chip(835 * _T),
    "NVIDIA H100 PCIe": Chip(756 * _T),
    "NVIDIA H200": Chip(989.4 * _T, 4800 * _G, 450 * _G, float32=66.9 * _T),
    "NVIDIA H200 NVL": Chip(835 * _T),
    "NVIDIA L4": Chip(121 * _T),
    "NVIDIA L40S": Chip(362 * _T),
    "Tesla T4": Chip(65 * _T, 320 * _G, 16 * _G, float32=8.1 * _T),
    "Tesla V100": Chip(125 * _T),
    "Tesla V100-PCIE": Chip(112 * _T),
}


def chip(device_kind: str) -> Chip | None:
    """The figures of a device; None where they are not known."""
    names = [name for name in _CHIPS if f"{device_kind} ".startswith((f"{name} ", f"{name}-"))]
    return _CHIPS[max(names, key=len)] if names else None


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of a device; None where that is not known."""
    known = chip(device_kind)
    return known and known.flops
