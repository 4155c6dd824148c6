"""What the values of a training configuration have to be, alone and together."""

import dataclasses
import re

from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import check_format
from medusa_jax.tree.presets import load_tree
from train.settings import MeshSettings, Settings

_SMALLEST = {
    "num_heads": 1,
    "num_layers": 1,
    "draft_vocab": 0,
    "markov_rank": 1,
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
_ABOVE_ZERO = ("epochs", "learning_rate", "head_lr_multiplier", "grad_clip", "lora_alpha")
# Key: (whether 0 is allowed, whether 1 is).
_SHARES = {
    "held_out": (True, False),
    "head_decay": (False, True),
    "heads_ramp": (False, True),
    "lora_dropout": (True, False),
}
_SEED_LIMIT = 2**32
LARGEST = 2**31 - 1  # of counts, which the device has as int32
_LEAST, _MOST = 1e-30, 1e30  # of rates and factors, which the device has as float32
_FLOAT32_MAX = 3.4e38


def check_settings(settings: Settings) -> None:
    """Refuses values out of range, and values that contradict each other.

    Raises:
      UserError: the first one found, as "config.KEY", and how to mend it.
    """
    _check_ranges(settings)
    _check_length(settings)
    _check_combinations(settings)
    _check_conditioning(settings)
    _check_export(settings)


def _check_ranges(settings: Settings) -> None:
    for key, smallest in _SMALLEST.items():
        value = getattr(settings, key)
        if value is not None and not smallest <= value < float("inf"):
            raise UserError(f"config.{key} is {value}: it must be {smallest} or more")
        if key != "seed" and value is not None and value > LARGEST:
            raise UserError(f"config.{key} is {value}: it must be {LARGEST} or less")
    for key in _ABOVE_ZERO:
        value = getattr(settings, key)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"config.{key} is {value}: it must be more than 0")
        if key != "epochs" and value is not None and not _LEAST <= value <= _MOST:
            raise UserError(f"config.{key} is {value}: it must lie between {_LEAST} and {_MOST}")
    rate = settings.learning_rate * settings.head_lr_multiplier
    if rate > _FLOAT32_MAX:
        raise UserError(
            f"config.learning_rate times config.head_lr_multiplier is {rate:g}: lower one of them"
        )
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
    check_profile(settings.profile, settings.steps)


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


def check_profile(profile: str, steps: int | None) -> None:
    """Raises UserError unless it is "" or two steps of the run (None: its length is not known)."""
    match = re.fullmatch(r"(\d+):(\d+)", profile)
    if profile and not (match and 0 < int(match[1]) < int(match[2])):
        raise UserError(
            f"config.profile is {profile!r}: give two steps, the first and the last, such as 10:15"
        )
    if match and steps is not None and int(match[2]) > steps:
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
    if settings.stop_lm_head and (heads_only or settings.own_projection):
        what = "medusa1 leaves it" if heads_only else "heads with projections of their own leave it"
        raise UserError(
            f"config.stop_lm_head is True, but {what} as it is: set config.stop_lm_head=False"
        )
    if settings.batch_size % settings.accumulate:
        raise UserError(
            f"config.accumulate is {settings.accumulate}, which does not divide "
            f"config.batch_size={settings.batch_size}: choose a divisor"
        )


def _check_length(settings: Settings) -> None:
    if settings.steps is None and settings.epochs is None:
        raise UserError("config.steps and config.epochs are both None: set one of them")
    if settings.steps is not None and settings.epochs is not None:
        raise UserError(
            f"config.steps is {settings.steps} and config.epochs is {settings.epochs:g}: a run has "
            "one length, so set one of them to None"
        )


def check_tree(settings: Settings) -> None:
    """Raises UserError unless its tree can be read and suits its heads."""
    try:
        load_tree(settings.tree, settings.num_heads)
    except UserError as error:
        raise UserError(f"config.tree: {error}") from None


def _check_conditioning(settings: Settings) -> None:
    if settings.conditioning in ("branch", "recurrent") and settings.own_projection:
        raise UserError(
            f"config.own_projection is True, but {settings.conditioning} heads share the LM head: "
            "set config.own_projection=False"
        )


def _check_export(settings: Settings) -> None:
    """Refuses heads that the chosen format cannot hold now rather than after hours of training."""
    if settings.export_format == "none":
        return
    heads = settings.heads_config(1, 1, draft_vocab=settings.draft_vocab > 0)  # of any size
    try:
        check_format(heads, settings.export_format)
    except UserError as error:
        raise UserError(
            f"config.export_format: {error}, or set config.export_format=none"
        ) from None
