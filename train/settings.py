"""A training configuration, checked: a frozen `Settings`, or one line that says what is wrong."""

import dataclasses
import re
import types
import typing
from typing import Any, Literal

from medusa_jax.cli_config import unknown
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import check_format
from medusa_jax.tree.presets import load_tree


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices per axis of the mesh; -1: all that the other axes leave."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """The keys of `configs/base.py`, which says what they mean."""

    model: str | None
    medusa: str | None
    data: str
    data_errors: Literal["stop", "cut", "skip"]
    held_out: float
    objective: Literal["medusa1", "medusa2", "self_distill"]
    hidden_states: Literal["streamed", "cached"]
    soft_labels: bool
    head_decay: float
    heads_coef: float
    heads_schedule: Literal["constant", "linear", "sine"]
    heads_ramp: float
    num_heads: int
    num_layers: int
    own_projection: bool
    root_conditioned: bool
    draft_vocab: int
    steps: int
    batch_size: int
    seq_len: int
    accumulate: int
    seed: int
    learning_rate: float
    head_lr_multiplier: float
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    moments: Literal["float32", "bfloat16", "factored"]
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    quantize: Literal["none", "int8", "nf4"]
    dtype: Literal["float32", "bfloat16"]
    remat: bool
    mesh: MeshSettings
    log_every: int
    eval_every: int
    save_every: int
    keep: int
    profile: str
    tree: str
    export_format: Literal["A", "B", "C", "vllm", "none"]
    export_dtype: Literal["float32", "bfloat16", "float16"]

    @property
    def lora_scale(self) -> float:
        """alpha / r, the adapters' weight; 1 without adapters."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 1.0

    @property
    def profile_steps(self) -> tuple[int, int] | None:
        """First and last step of the trace; None: no trace."""
        if not self.profile:
            return None
        first, _, last = self.profile.partition(":")
        return int(first), int(last)


_SMALLEST = {
    "num_heads": 1,
    "num_layers": 0,
    "draft_vocab": 0,
    "steps": 1,
    "batch_size": 1,
    "seq_len": 2,
    "accumulate": 1,
    "seed": 0,
    "warmup_steps": 0,
    "lora_rank": 0,
    "log_every": 1,
    "eval_every": 1,
    "save_every": 1,
    "keep": 1,
    "heads_coef": 0,
    "weight_decay": 0,
}
_ABOVE_ZERO = ("learning_rate", "head_lr_multiplier", "grad_clip", "lora_alpha")
# Key: (whether 0 is allowed, whether 1 is).
_SHARES = {
    "held_out": (True, False),
    "head_decay": (False, True),
    "heads_ramp": (False, True),
    "lora_dropout": (True, False),
}
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}
_SEED_LIMIT = 2**32


def make_settings(config: Any) -> Settings:
    """Checks a configuration before anything expensive starts.

    Args:
      config: a ConfigDict with the keys of `configs/base.py`, no fewer and no others.

    Returns:
      The settings; whole numbers where the configuration may have fractions become floats.

    Raises:
      UserError: a key is unknown, missing, of the wrong type or out of range, or keys contradict
        each other; the message names it as "config.KEY" and says how to mend it.
    """
    values: dict[str, Any] = config.to_dict()
    mesh = values.get("mesh")
    if isinstance(mesh, dict):
        values["mesh"] = MeshSettings(**_typed(MeshSettings, mesh, "config.mesh."))
    settings = Settings(**_typed(Settings, values, "config."))
    _check_ranges(settings)
    _check_combinations(settings)
    _check_export(settings)
    return settings


def _typed(kind: Any, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise UserError(unknown(prefix, key, list(hints)))
    for key in hints:
        if key not in values:
            raise UserError(
                f"{prefix}{key} is missing: let the recipe start from configs.base.get_config()"
            )
    return {key: _value(prefix + key, values[key], hint) for key, hint in hints.items()}


def _value(name: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(typing.get_args(hint))
            raise UserError(f"{name} is {value!r}: choose one of {choices}")
        return value
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:  # exactly: True would pass for a whole number
        wanted = _NAMES.get(kinds[0], "a ConfigDict with data, fsdp and tensor")
        raise UserError(f"{name} is {value!r}: it must be {wanted}")
    return value


def _check_ranges(settings: Settings) -> None:
    for key, smallest in _SMALLEST.items():
        value = getattr(settings, key)
        if not smallest <= value < float("inf"):
            raise UserError(f"config.{key} is {value}: it must be {smallest} or more")
    for key in _ABOVE_ZERO:
        value = getattr(settings, key)
        if not 0 < value < float("inf"):
            raise UserError(f"config.{key} is {value}: it must be more than 0")
    for key, (zero, one) in _SHARES.items():
        value = getattr(settings, key)
        if not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
            low = "from 0" if zero else "above 0"
            high = "to 1" if one else "to below 1"
            raise UserError(f"config.{key} is {value}: it must be {low} {high}")
    if settings.seed >= _SEED_LIMIT:
        raise UserError(f"config.seed is {settings.seed}: it must be below {_SEED_LIMIT}")
    if settings.data == "":
        raise UserError("config.data is empty: name a ShareGPT-format file or a data set")
    _check_mesh(settings.mesh)
    _check_profile(settings.profile, settings.steps)


def _check_mesh(mesh: MeshSettings) -> None:
    sizes = dataclasses.asdict(mesh)
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise UserError(
                f"config.mesh.{axis} is {size}: it must be 1 or more, or -1 for all other devices"
            )
    rest = [axis for axis, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise UserError(
            f"config.mesh.{rest[1]} is -1, and so is config.mesh.{rest[0]}: only one axis can "
            "take all other devices"
        )


def _check_profile(profile: str, steps: int) -> None:
    match = re.fullmatch(r"(\d+):(\d+)", profile)
    if profile and not (match and 0 < int(match[1]) < int(match[2])):
        raise UserError(
            f"config.profile is {profile!r}: give two steps, the first and the last, such as 10:15"
        )
    if match and int(match[2]) > steps:
        raise UserError(
            f"config.profile is {profile!r}, but the run ends at step {steps}: choose earlier steps"
        )


def _check_combinations(settings: Settings) -> None:
    heads_only = settings.objective == "medusa1"
    if settings.hidden_states == "cached" and not heads_only:
        raise UserError(
            f"config.hidden_states is cached, but {settings.objective} changes the backbone: set "
            "config.hidden_states=streamed"
        )
    if settings.hidden_states == "cached" and settings.quantize != "none":
        raise UserError(
            f"config.quantize is {settings.quantize}, but cached hidden states are made once, by "
            "the model as it is: set config.quantize=none, or config.hidden_states=streamed"
        )
    if settings.objective == "self_distill" and settings.lora_rank == 0:
        raise UserError(
            "config.lora_rank is 0, but self_distill takes the model without its adapters as the "
            "teacher: set config.lora_rank=32"
        )
    if heads_only and settings.lora_rank:
        raise UserError(
            f"config.lora_rank is {settings.lora_rank}, but medusa1 leaves the backbone as it is: "
            "set config.lora_rank=0, or config.objective=medusa2"
        )
    if settings.quantize != "none" and not heads_only and settings.lora_rank == 0:
        raise UserError(
            f"config.quantize is {settings.quantize}, but {settings.objective} trains the whole "
            "backbone: set config.lora_rank=32, or config.quantize=none"
        )
    if settings.batch_size % settings.accumulate:
        raise UserError(
            f"config.accumulate is {settings.accumulate}, which does not divide "
            f"config.batch_size={settings.batch_size}: choose a divisor"
        )
    _check_tree(settings)


def _check_tree(settings: Settings) -> None:
    try:
        load_tree(settings.tree, settings.num_heads)
    except UserError as error:
        raise UserError(f"config.tree: {error}") from None


def _check_export(settings: Settings) -> None:
    """Refuses heads that the chosen format cannot hold now rather than after hours of training."""
    if settings.export_format == "none":
        return
    heads = MedusaConfig(
        num_heads=settings.num_heads,
        num_layers=settings.num_layers,
        hidden_size=1,
        vocab_size=1,
        own_projection=settings.own_projection,
        draft_vocab=settings.draft_vocab > 0,
        root_conditioned=settings.root_conditioned,
    )
    try:
        check_format(heads, settings.export_format)
    except UserError as error:
        raise UserError(
            f"config.export_format: {error}, or set config.export_format=none"
        ) from None
