"""Options of decoding, and the rule and the numbers that follow from them."""

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from medusa_jax.decoding.rules.filters import Filters
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.lossless import Lossless, LosslessNumbers
from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.decoding.rules.typical import Typical, TypicalNumbers
from medusa_jax.errors import UserError
from medusa_jax.tree.dynamic import AnyTree

ACCEPTANCES = ("greedy", "typical", "lossless")
_EPSILON, _DELTA = 0.09, 0.3
_INT32, _FLOAT32 = np.iinfo(np.int32), np.finfo(np.float32)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How to decode.

    Attributes:
      max_new_tokens: exact bound on new tokens per prompt.
      temperature: 0 decodes greedily.
      acceptance: which drafted tokens count. "greedy": those of greedy decoding; "lossless": those
        of sampling without a draft, exactly; "typical": all that are plausible (paper, section
        2.3.1). Default: greedy at temperature 0, lossless above.
      top_k: sample only among this many of the most likely tokens; 0: among all.
      top_p: sample only among the fewest tokens that together have this probability; 1: all.
      min_p: sample only among tokens with this share of the highest probability or more; 0: all.
      epsilon: hard threshold of typical acceptance; larger is stricter.
      delta: factor of its entropy-dependent threshold; the paper recommends sqrt(epsilon).
      sampled_root: typical acceptance: draw the first token of each step; the paper takes the most
        likely one. Default: draw it only when decoding without heads.
      seed: of the random keys, 0 .. 2**64 - 1.
      num_samples: continuations of each prompt, which is run once.
      logprobs: also return each token's log-probability under the model itself: at temperature 1,
        without filters and bias.
      logit_bias: added to the logits of some token ids, before everything else.
      stop: texts before which an answer ends.
      ignore_eos: go on after end-of-sequence tokens.
      max_context: most tokens of a prompt and its answer together; default: the model's context.
      tree: what each step proposes: "auto", chosen while decoding (see `decoding.auto`), or what
        `medusa_jax.tree.presets.load_any_tree` takes; default: the model's, which is "auto" unless
        it was loaded with another.

    Raises:
      UserError: a value out of range, or options that exclude each other.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    acceptance: str | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    epsilon: float = _EPSILON
    delta: float = _DELTA
    sampled_root: bool | None = None
    seed: int = 0
    num_samples: int = 1
    logprobs: bool = False
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    max_context: int | None = None
    tree: str | AnyTree | None = None

    def __post_init__(self) -> None:
        _check_switches(self)
        _check_numbers(self)
        _check_texts(self)
        # Copies: the caller may change theirs while prompts are waiting.
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.acceptance not in (None, *ACCEPTANCES):
            choices = f"{', '.join(ACCEPTANCES[:-1])} or {ACCEPTANCES[-1]}"
            raise UserError(f"acceptance is {self.acceptance!r}: choose {choices}")
        if self.acceptance == "greedy" and self.temperature > 0:
            raise UserError("greedy acceptance is for temperature 0: choose acceptance lossless")
        if self.acceptance == "typical" and self.has_filters:
            raise UserError(
                "typical acceptance has thresholds of its own: leave out top_k, top_p and min_p, "
                "or choose acceptance lossless"
            )
        thresholds = (self.epsilon, self.delta, self.sampled_root)
        if self.rule == "lossless" and thresholds != (_EPSILON, _DELTA, None):
            raise UserError(
                "epsilon, delta and sampled_root are typical acceptance's: choose acceptance "
                "typical, or leave them out"
            )

    @property
    def rule(self) -> str:
        """The acceptance that is in force."""
        return self.acceptance or ("lossless" if self.temperature > 0 else "greedy")

    @property
    def has_filters(self) -> bool:
        """Whether fewer tokens than all may be sampled."""
        return (self.top_k, self.top_p, self.min_p) != (0, 1, 0)


def make_config(
    options: Mapping[str, Any], common: Mapping[str, Any] | None = None
) -> GenerationConfig:
    """Options by name.

    Args:
      options: see `GenerationConfig`.
      common: others, which `options` replace.

    Raises:
      UserError: an option that does not exist or is out of range, or options that exclude each
        other.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"each has {reprlib.repr(options)}: give options by name, {{}} for none")
    known = [field.name for field in dataclasses.fields(GenerationConfig)]
    if unknown := next((name for name in options if name not in known), None):
        close = difflib.get_close_matches(str(unknown), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
        raise UserError(f"there is no option {unknown!r}: {hint}")
    return GenerationConfig(**{**(common or {}), **options})


def _check_switches(config: GenerationConfig) -> None:
    for name in ("logprobs", "ignore_eos", "sampled_root"):
        value = getattr(config, name)
        if not (isinstance(value, bool | np.bool_) or (name == "sampled_root" and value is None)):
            raise UserError(f"{name} is {value!r}: it must be True or False")


def _check_numbers(config: GenerationConfig) -> None:
    whole = {"max_new_tokens": 1, "seed": 0, "num_samples": 1, "top_k": 0}
    if config.max_context is not None:
        whole["max_context"] = 2  # one of the prompt and one new
    for name, least in whole.items():
        value = getattr(config, name)
        if not isinstance(value, Integral):
            raise UserError(f"{name} is {value!r}: it must be a whole number")
        object.__setattr__(config, name, int(value))  # NumPy's numbers have few bits
        if value < least and name != "seed":
            raise UserError(f"{name} is {value}: it must be at least {least}")
    if not 0 <= config.seed < 2**64:
        raise UserError(f"seed is {config.seed}: it must be from 0 to 2**64 - 1")
    for name in ("temperature", "top_p", "min_p", "epsilon", "delta"):
        if not isinstance(getattr(config, name), Real):
            raise UserError(f"{name} is {getattr(config, name)!r}: it must be a number")
    if not 0 <= config.temperature <= float(_FLOAT32.max):
        raise UserError(
            f"temperature is {config.temperature}: it must be 0 or more, and a number of float32"
        )
    if not 0 < config.top_p <= 1:
        raise UserError(f"top_p is {config.top_p}: it must lie above 0 and be at most 1")
    if not 0 <= config.min_p <= 1:
        raise UserError(f"min_p is {config.min_p}: it must lie between 0 and 1")
    if not (0 < config.epsilon < 1 and 0 < config.delta <= float(_FLOAT32.max)):
        raise UserError(
            f"epsilon is {config.epsilon}, delta is {config.delta}: epsilon must lie between 0 "
            "and 1, delta above 0, and be a number of float32"
        )


def _check_texts(config: GenerationConfig) -> None:
    stops = config.stop if isinstance(config.stop, Sequence) else [config.stop]
    if isinstance(stops, str) or not all(isinstance(text, str) and text for text in stops):
        raise UserError(f"stop is {config.stop!r}: give a list of texts that are not empty")
    if not isinstance(config.logit_bias, Mapping):
        raise UserError(f"logit_bias is {config.logit_bias!r}: give numbers by token id")
    for token, bias in config.logit_bias.items():
        if not (isinstance(token, Integral) and isinstance(bias, Real) and _is_bias(bias)):
            raise UserError(
                f"logit_bias has {token!r}: {bias!r}: give token ids, and numbers that float32 has "
                "or -inf"
            )


def _is_bias(bias: Any) -> bool:
    """-inf excludes a token, but no sum of others follows from inf."""
    return bias == -float("inf") or abs(bias) <= float(_FLOAT32.max)


def make_rule(config: GenerationConfig, tree: AnyTree) -> Rule:
    """The rule of these options; `tree` decides what typical acceptance samples by default."""
    if config.rule == "greedy":
        return Greedy()
    if config.rule == "lossless":
        return Lossless()
    sampled = tree.R == 1 if config.sampled_root is None else config.sampled_root
    return Typical(sampled_root=sampled)


def rule_numbers(configs: Sequence[GenerationConfig], *, filters: bool | None = None) -> Any:
    """The numbers of the rule that all rows share, one entry per row, on the host.

    Args:
      configs: of the rows.
      filters: whether rows that these are put together with have filters; default: as these do.
    """

    def column(name: str, dtype: Any) -> Any:
        return np.asarray([getattr(config, name) for config in configs], dtype)

    if configs[0].rule == "typical":
        names = ("temperature", "epsilon", "delta")
        return TypicalNumbers(*(column(name, np.float32) for name in names))
    if configs[0].rule == "lossless":
        if not (any(c.has_filters for c in configs) if filters is None else filters):
            return LosslessNumbers(column("temperature", np.float32))
        top_k: Any = np.asarray([min(c.top_k, _INT32.max) for c in configs], np.int32)
        shares = column("top_p", np.float32), column("min_p", np.float32)
        return LosslessNumbers(column("temperature", np.float32), Filters(top_k, *shares))
    return ()
