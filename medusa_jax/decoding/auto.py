"""`tree="auto"`: the tree that fits this machine, batch, context and dtype, chosen while decoding.

What `infer.tune` measured decides, or assumptions do, and every call of the decode loop corrects
them (`medusa_jax.tuning`). All decisions are made on the host, between calls.
"""

import dataclasses
import weakref
from typing import Any

import jax

from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.decoding.drafting.make_drafter import for_tree
from medusa_jax.decoding.engine.steering import Call, OneTree, Plan, Steering
from medusa_jax.decoding.options import GenerationConfig, make_rule
from medusa_jax.decoding.prepared import prepared
from medusa_jax.decoding.programs import abstract
from medusa_jax.decoding.runtime import Runtime, make_runtime
from medusa_jax.model import MedusaLM
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tuning.choose import Choice, choice
from medusa_jax.tuning.policy import Policy
from medusa_jax.tuning.prospect import Prospect

# Calls are put together until they say something: a clock is coarse, a step gives few tokens.
_ENOUGH_STEPS = 8
# A process that answers requests may meet any temperature.
_MOST_KNOWN = 64
_NOTHING = Call(0.0, 0, 0, 0, 0.0, 0, build_tree([]))


def auto_choice(lm: MedusaLM, config: GenerationConfig, batch: int, longest: int) -> Choice:
    """What `tree="auto"` begins with.

    Args:
      lm: the model.
      config: the options.
      batch: rows decoded at once.
      longest: tokens of the longest row, prompt and budget together.
    """
    return _prospect(lm, config, batch).choose(cache_slots(longest))


def auto_steering(
    lm: MedusaLM,
    config: GenerationConfig,
    batch: int,
    longest: int,
    *,
    logprobs: bool = False,
    request: Any = None,
) -> Steering:
    """What steers the engine with `tree="auto"`.

    The text of typical acceptance depends on the tree, and processes that share a model must make
    the same calls whatever their clocks say: in both cases the first choice holds.

    Args:
      lm, config, batch, longest: see `auto_choice`.
      logprobs: see `make_runtime`.
      request: what its programs depend on, hashable: a prompt with filters needs others than one
        without.
    """
    if config.rule == "typical" or make_runtime(lm, build_tree([])).is_shared:
        nodes = auto_choice(lm, config, batch, longest).nodes
        tree = _prospect(lm, config, batch).trees[nodes]
        return OneTree(prepared(lm, tree, make_rule(config, tree), logprobs), tree)
    key = (config.rule, _temperature(config), batch, logprobs, request)
    known = _known(lm)
    steering = known.steerings.pop(key, None)
    if steering is None:
        steering = AutoTree(lm, config, batch, logprobs, known.runtimes)
    else:
        steering.begin_job()
    known.steerings[key] = steering  # behind all others: the first is the one longest unused
    if len(known.steerings) > _MOST_KNOWN:
        del known.steerings[next(iter(known.steerings))]
    return steering


class AutoTree:
    """Steers by what is predicted and by what is observed.

    Attributes:
      choice: of the last plan.
    """

    def __init__(
        self,
        lm: MedusaLM,
        config: GenerationConfig,
        batch: int,
        logprobs: bool,
        runtimes: dict[int, Runtime],
    ):
        """Begins with what is predicted.

        Args:
          lm: the model.
          config: the options, of which the rule and the temperature count.
          batch: rows decoded at once.
          logprobs: see `make_runtime`.
          runtimes: of the model, by depth, for their arrays; more are added.
        """
        self.choice: Choice | None = None
        self._lm = weakref.ref(lm)
        self._config, self._logprobs = config, logprobs
        self._prospect = _prospect(lm, config, batch)
        self._policy = Policy(self._prospect.belief)
        self._by_depth = runtimes
        self._runtimes: dict[int, Runtime] = {}
        self._ready: set[tuple[int, int]] = set()  # nodes, capacity
        self._compile_seconds = 0.0
        self._now: int | None = None
        self._trial = 0  # steps that the last decision holds for
        self._seen = _NOTHING
        self._tokens = self._earlier = 0.0  # per row, in all and in jobs that are done

    def begin_job(self) -> None:
        """Says that another queue of prompts comes: as much work as so far may come again."""
        self._earlier = self._tokens

    @property
    def depth(self) -> int:
        """See `Steering.depth`."""
        return max(tree.max_depth for tree in self._prospect.trees.values())

    def plan(self, capacity: int, remaining: float) -> Plan:
        """See `Steering.plan`."""
        if self._now is None or self._seen.steps >= (self._trial or _ENOUGH_STEPS):
            self._decide(capacity, remaining)
        assert self._now is not None
        left = self._trial - self._seen.steps if self._trial else None
        if (self._now, capacity) not in self._ready:
            left = 1  # says nothing, see `observe`
        return Plan(self._runtime(self._now), self._prospect.trees[self._now], left)

    def observe(self, call: Call) -> None:
        """See `Steering.observe`."""
        assert self._now is not None
        self._tokens += call.tokens / self._prospect.batch
        if call.compile_seconds:
            # Some of it may have been done ahead.
            self._compile_seconds = max(self._compile_seconds, call.compile_seconds)
        if call.tree is not self._prospect.trees[self._now]:
            return  # of another job with this model, between whose calls this one has decided
        program = self._now, call.capacity
        if program not in self._ready:  # its first call takes longer: it prepares products
            self._ready.add(program)
            return
        seen = self._seen
        self._seen = Call(
            seen.seconds + call.seconds,
            seen.steps + call.steps,
            seen.row_steps + call.row_steps,
            seen.tokens + call.tokens,
            0.0,
            call.capacity,
            call.tree,
        )

    def _decide(self, capacity: int, remaining: float) -> None:
        predicted = self._prospect.seconds(capacity)
        seen, self._seen = self._seen, _NOTHING
        if self._now is not None and seen.steps and seen.row_steps:
            self._policy.observe(
                self._now,
                seen.seconds,
                seen.steps,
                seen.row_steps,
                seen.tokens,
                predicted[self._now],
            )
        decision = self._policy.decide(
            predicted,
            remaining=remaining + self._earlier,
            current=self._now,
            ready={n for n, slots in self._ready if slots == capacity},
            compile_seconds=self._compile_seconds,
        )
        self._now, self._trial = decision.nodes, decision.steps or 0
        outlooks = self._policy.outlooks(predicted)
        self.choice = choice(self._now, outlooks, self._prospect.belief.source)

    def _runtime(self, nodes: int) -> Runtime:
        """With the tree of this size; those of the same depth share their other arrays."""
        if nodes not in self._runtimes:
            tree, lm = self._prospect.trees[nodes], self._lm()
            assert lm is not None  # whoever decodes holds it
            if tree.max_depth not in self._by_depth:
                self._by_depth[tree.max_depth] = make_runtime(lm, tree)
            runtime = _with_tree(self._by_depth[tree.max_depth], tree, lm.platform)
            rule = make_rule(self._config, tree)
            decoder = dataclasses.replace(runtime.decoder, rule=rule, logprobs=self._logprobs)
            self._runtimes[nodes] = dataclasses.replace(runtime, decoder=decoder)
        return self._runtimes[nodes]


def _with_tree(runtime: Runtime, tree: Tree, platform: str) -> Runtime:
    """The same with another tree of the same depth."""
    if not tree.max_depth:
        return runtime
    drafter: Any = runtime.decoder.drafter
    drafter, own = for_tree(drafter, tree, platform)
    decoder = dataclasses.replace(runtime.decoder, drafter=drafter)
    params = {**runtime.params, "drafter": runtime.params["drafter"] | runtime.put(own)}
    return dataclasses.replace(runtime, decoder=decoder, params=params, shapes=abstract(params))


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is kept with a model.

    Attributes:
      leaves: the arrays of its parameters that this holds for.
      runtimes: by depth. They hold copies of heads, so there is one for all rules and temperatures.
      steerings: by what was asked for. They hold small arrays and what they have learned.
    """

    leaves: list[Any]
    runtimes: dict[int, Runtime]
    steerings: dict[Any, AutoTree]


_LEARNED: "weakref.WeakKeyDictionary[MedusaLM, _Known]"
_LEARNED = weakref.WeakKeyDictionary()


def _known(lm: MedusaLM) -> _Known:
    leaves = jax.tree.leaves((lm.params, lm.heads_params))
    known = _LEARNED.get(lm)
    if known is not None and [*map(id, leaves)] == [*map(id, known.leaves)]:
        return known
    known = _Known(leaves, {}, {})
    if all(isinstance(x, jax.Array) for x in leaves):  # NumPy's arrays can change their values
        _LEARNED[lm] = known
    return known


def _temperature(config: GenerationConfig) -> float:
    return config.temperature if config.rule == "lossless" else 0.0


def _prospect(lm: MedusaLM, config: GenerationConfig, batch: int) -> Prospect:
    return lm.prospect(_temperature(config), batch)
