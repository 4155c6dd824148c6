"""What to expect of a model's trees before it decodes: the best of each size, and what it costs."""

import dataclasses
from collections.abc import Mapping

from medusa_jax.config import MedusaConfig
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.rates import Rates, expected_tokens
from medusa_jax.tree.search import best_tree
from medusa_jax.tuning.choose import PLAIN, Choice, choice
from medusa_jax.tuning.measured import Measured, assumed_acceptance, assumed_times
from medusa_jax.tuning.policy import Belief, Policy
from medusa_jax.tuning.times import StepTimes

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # nodes
# What a prediction is worth, see `Belief`.
_MEASURED_TRUST, _ASSUMED_TRUST = 300.0, 30.0
_MEASURED_DOUBT, _EXTRAPOLATED_DOUBT, _ASSUMED_DOUBT = 0.02, 0.3, 0.5
# Share of a plain step that a depth adds if it is drafted on its own: it reads the LM head again,
# 32k rows of which are 2 % of a 7B. Measured times include it, and so do those assumed of a CPU;
# which tree of a size is the best depends on it all the same.
_ASSUMED_LEVEL = 0.02
_SLOTS = 256  # of a short context, which tells trees of one size apart well enough


@dataclasses.dataclass(frozen=True, eq=False)
class Prospect:
    """What is known of a model's trees.

    Attributes:
      trees: by nodes; each is the best of its size, with as many depths as pay. Where steps were
        measured, of sizes measured.
      belief: what they promise.
      times: of steps.
      batch: rows decoded at once.
      level_cost: what every depth of a tree adds that `times` do not include, in plain steps.
    """

    trees: Mapping[int, Tree]
    belief: Belief
    times: StepTimes
    batch: int
    level_cost: float = 0.0

    def seconds(self, slots: int) -> dict[int, float]:
        """Of a step, by nodes, as predicted for this many slots of the cache."""
        level = self.level_cost * self.times.seconds(PLAIN, self.batch, slots)
        return {
            n: self.times.seconds(n, self.batch, slots) + level * tree.max_depth
            for n, tree in self.trees.items()
        }

    def choose(self, slots: int) -> Choice:
        """The best size, if everything is as predicted."""
        policy, seconds = Policy(self.belief), self.seconds(slots)
        nodes = policy.decide(seconds, remaining=1.0).nodes
        return choice(nodes, policy.outlooks(seconds), self.belief.source)


def prospect(
    heads: MedusaConfig | None,
    measured: Measured,
    *,
    platform: str,
    dtype: str,
    temperature: float,
    batch: int,
) -> Prospect:
    """What to expect.

    Args:
      heads: of the model; None: it has none.
      measured: of it, on this machine.
      platform: "cpu", "gpu" or "tpu".
      dtype: compute dtype.
      temperature: 0 for typical acceptance too, which accepts no less than greedy decoding.
      batch: rows decoded at once.
    """
    rates = _rates(heads, measured, temperature)
    own = measured.times.get(dtype)
    times = own or assumed_times(platform, dtype)
    level = _ASSUMED_LEVEL if heads is not None and heads.sees_branch else 0.0
    trees = {PLAIN: build_tree([])}
    if rates is not None and heads is not None:
        plain = times.seconds(PLAIN, batch, _SLOTS)
        steps = {n: times.seconds(n, batch, _SLOTS) / plain for n in SIZES}
        trees |= _trees(rates, heads.vocab_size, steps, level)
    if own is not None:
        trees = {n: tree for n, tree in trees.items() if n in {PLAIN, *own.sizes(batch)}}
    belief = Belief(
        tokens={n: expected_tokens(tree, rates) if rates else 1.0 for n, tree in trees.items()},
        trust=_ASSUMED_TRUST if measured.acceptance is None else _MEASURED_TRUST,
        doubt={n: _doubt(own, n, batch) for n in trees},
        source="estimated" if own is None or measured.acceptance is None else "measured",
    )
    times_have_levels = own is not None or platform == "cpu"
    return Prospect(trees, belief, times, batch, 0.0 if times_have_levels else level)


def _doubt(times: StepTimes | None, nodes: int, batch: int) -> float:
    if times is None:
        return _ASSUMED_DOUBT
    return _MEASURED_DOUBT if times.is_measured(nodes, batch) else _EXTRAPOLATED_DOUBT


def _rates(heads: MedusaConfig | None, measured: Measured, temperature: float) -> Rates | None:
    if heads is None:
        return None
    if measured.acceptance is None:
        return assumed_acceptance(heads.num_heads)
    return Rates(measured.acceptance.at(temperature).rate_MPK[: heads.num_heads])


def _trees(
    rates: Rates, num_tokens: int, steps: Mapping[int, float], level: float
) -> dict[int, Tree]:
    """The best tree of each size, of as many sizes as the heads can fill.

    Args:
      rates: of acceptance.
      num_tokens: that heads choose from.
      steps: what a step costs, by nodes, in plain steps.
      level: what a depth costs, likewise.
    """

    def worth(tree: Tree) -> float:
        return expected_tokens(tree, rates) / (steps[tree.R] + level * tree.max_depth)

    found: dict[int, list[Tree]] = {}
    for depth in range(1, len(rates.rate_MPK) + 1):
        for n, tree in _best_trees(Rates(rates.rate_MPK[:depth])).items():
            found.setdefault(n, []).append(tree)
    trees = {n: max(of_size, key=worth) for n, of_size in sorted(found.items())}
    return {n: tree for n, tree in trees.items() if tree.top_k <= num_tokens}


def _best_trees(rates: Rates) -> dict[int, Tree]:
    """By nodes, the tree with the most expected tokens, of as many sizes as the heads can fill."""
    num_heads, _, num_ranks = rates.rate_MPK.shape
    most = sum(num_ranks**depth for depth in range(1, num_heads + 1))
    sizes = [n for n in SIZES if PLAIN < n <= most + 1]
    paths = best_tree(rates, sizes[-1] - 1) if sizes else []
    return {n: build_tree(paths[: n - 1]) for n in sizes}
