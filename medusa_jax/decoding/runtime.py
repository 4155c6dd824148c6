"""What decodes one model with one drafter and one rule: bucketed shapes, programs, parameters."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.random import threefry_2x32
from jax.sharding import Mesh

from medusa_jax.decoding import prefill, step
from medusa_jax.decoding.buckets import batch_shape, prompt_width
from medusa_jax.decoding.cache import storage_dtype
from medusa_jax.decoding.decoder import Decoder, lone_nodes
from medusa_jax.decoding.drafting.drafters import Drafter, NoDrafter
from medusa_jax.decoding.drafting.make_drafter import make_drafter
from medusa_jax.decoding.programs import abstract, compiled
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.decoding.state import DecodeState, Request
from medusa_jax.mesh import mesh_of
from medusa_jax.model import MedusaLM, check_tree
from medusa_jax.sharding import param_shardings, replicated
from medusa_jax.tree.dynamic import AnyTree

ALL_STEPS = np.iinfo(np.int32).max
_EOS_SLOTS = 8


@dataclasses.dataclass
class Clock:
    """Seconds that some work took, compilation counted separately, and what came of it.

    Attributes:
      compile: compiling.
      prefill: running prompts.
      decode: steps.
      tokens: that the steps have committed, of answers in the making too.
      row_steps: steps, counted for every row that took them.
    """

    compile: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    tokens: int = 0
    row_steps: int = 0

    @contextlib.contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Adds what the body takes to "prefill" or "decode", less what it compiles."""
        begin, compiled_before = time.perf_counter(), self.compile
        yield
        seconds = time.perf_counter() - begin - (self.compile - compiled_before)
        setattr(self, what, getattr(self, what) + seconds)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch in flight: the carry of its decode loop, and what it cost so far."""

    state: DecodeState
    clock: Clock


@dataclasses.dataclass(frozen=True, eq=False)
class Runtime:
    """A model made ready to decode.

    Attributes:
      decoder: static description of the step.
      params: what the step reads, on the devices: {"backbone", "drafter"}.
      mesh: what the parameters are spread over; None: they are on one device.
      shapes: of `params`, see `programs.abstract`.
    """

    decoder: Decoder
    params: dict[str, Any]
    mesh: Mesh | None
    shapes: Any

    def put(self, tree: Any) -> Any:
        """Host arrays where the parameters are, whole on every device."""
        if self.mesh is None:
            (device,) = jax.tree.leaves(self.params["backbone"])[0].devices()
            return jax.device_put(tree, device)
        sharding = replicated(self.mesh)
        if not self.is_shared:
            return jax.device_put(tree, sharding)

        # `device_put` would ask the other processes every time whether they have the same.
        def put(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return jax.tree.map(put, tree)

    @property
    def is_shared(self) -> bool:
        """Whether other processes hold parts of the parameters and have to make the same calls."""
        return self.mesh is not None and self.mesh.is_multi_process

    def run(self, clock: Clock, function: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
        """function(decoder, params, *arrays, **static), compiled."""
        program, seconds = self.program(function, *map(abstract, arrays), **static)
        clock.compile += seconds
        return program(self.params, *arrays)

    def program(
        self, function: Callable[..., Any], *arrays: Any, **static: Any
    ) -> tuple[Any, float]:
        """What `run` would use for abstract arrays; see `programs.compiled`."""
        statics = (self.decoder, tuple(static.items()))
        return compiled(function, statics, self.mesh, (self.shapes, *arrays))

    def without_drafter(self) -> "Runtime":
        """For programs that all drafters share: those of `decoding.prefill`."""
        return dataclasses.replace(
            self,
            decoder=dataclasses.replace(self.decoder, drafter=NoDrafter()),
            params={"backbone": self.params["backbone"]},
            shapes={"backbone": self.shapes["backbone"]},
        )

    def without_rule(self) -> "Runtime":
        """For programs that all rules share."""
        return dataclasses.replace(self, decoder=dataclasses.replace(self.decoder, rule=Greedy()))

    def prefill(self, clock: Clock, request: Request, encoded: Sequence[Sequence[int]]) -> Any:
        """Runs whole prompts.

        Args:
          clock: counts what is spent on compiling.
          request: one row per prompt, on the host (see `make_request`).
          encoded: token ids of the prompts.

        Returns:
          A `Prefilled`.
        """
        width = prompt_width(max(map(len, encoded)))
        arrays = (request, padded(encoded, width), np.asarray([*map(len, encoded)], np.int32))
        return self.without_drafter().run(clock, prefill.prefill_rows, *self.put(arrays))

    def start(self, request: Request, encoded: Sequence[Sequence[int]]) -> Batch:
        """Runs the prompts of a batch that stays together and whose cache need not grow."""
        budgets = np.asarray(request.budget_B).tolist()
        lengths = [*map(len, encoded)]
        longest = max(n + budget for n, budget in zip(lengths, budgets, strict=True))
        depth = self.decoder.drafter.max_depth
        slots = batch_shape(max(lengths), longest, depth)[1]
        clock = Clock()
        with clock.measure("prefill"):
            rows = self.prefill(clock, request, encoded)
            state = jax.block_until_ready(self.run(clock, step.begin, rows, capacity=slots))
        return Batch(state, clock)

    def advance(self, batch: Batch, max_steps: int = ALL_STEPS) -> Batch:
        """Takes up to `max_steps` steps, until all rows are done; consumes the batch's state."""
        rows = batch.state.done_B.shape[0]
        bounds = (np.zeros((rows,), bool), np.int32(max_steps), np.int32(rows - 1))
        with batch.clock.measure("decode"):
            state, _ = self.run(batch.clock, step.decode, batch.state, *self.put(bounds))
            jax.block_until_ready(state)
        return dataclasses.replace(batch, state=state)


def padded(encoded: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """int32 [B, width]."""
    rows_BT = np.zeros((len(encoded), width), np.int32)
    for row_T, ids in zip(rows_BT, encoded, strict=True):
        row_T[: len(ids)] = ids
    return rows_BT


def make_runtime(
    lm: MedusaLM, tree: AnyTree | None = None, rule: Rule | None = None, *, logprobs: bool = False
) -> Runtime:
    """Makes a model ready to decode.

    Args:
      lm: the model.
      tree: what its heads fill at each step; default: lm.tree.
      rule: default: greedy acceptance.
      logprobs: whether log-probabilities of the emitted tokens are wanted.

    Raises:
      UserError: the tree needs more heads or ranks than there are.
    """
    tree = lm.tree if tree is None else tree
    check_tree(tree, lm.heads_config)
    mesh = mesh_of(lm.params)
    params: dict[str, Any] = {"backbone": _on_device(lm.params)}
    drafter: Drafter = NoDrafter()
    if tree.R > 1 and lm.heads_config is not None and lm.heads_params is not None:
        heads = _beside(lm.heads_params, params["backbone"], mesh)
        drafter, params["drafter"] = make_drafter(
            lm.heads_config, heads, params["backbone"], tree, lm.dtype, lm.platform
        )
        if mesh is not None and "lm_head" in params["drafter"]:  # made whole, on every device
            lm_head = {"lm_head": params["drafter"]["lm_head"]}
            params["drafter"] |= jax.device_put(lm_head, param_shardings(mesh, lm_head))
    decoder = Decoder(
        lm.config,
        rule or Greedy(),
        drafter,
        lm.dtype,
        storage_dtype(lm.dtype, lm.platform),
        logprobs,
        mesh,
        lone_nodes(lm.platform),
    )
    runtime = Runtime(decoder, params, mesh, None)
    for name in ("tree", "parents", "place_R"):  # what is still on the host
        if name in params.get("drafter", {}):
            params["drafter"][name] = runtime.put(params["drafter"][name])
    return dataclasses.replace(runtime, shapes=abstract(params))


def _on_device(params: Any) -> Any:
    """Host arrays on the default device; others stay where they are."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), params)


def _beside(heads: Any, backbone: Any, mesh: Mesh | None) -> Any:
    """Heads on the devices of the backbone, wherever they were made."""
    devices = jax.tree.leaves(backbone)[0].sharding.device_set
    leaves = jax.tree.leaves(heads)
    if all(isinstance(x, jax.Array) and x.sharding.device_set == devices for x in leaves):
        return heads
    if mesh is None:
        return jax.device_put(heads, next(iter(devices)))
    return jax.tree.map(jax.device_put, heads, param_shardings(mesh, heads))


def make_request(
    budgets: Sequence[int],
    eos_ids: Sequence[int] = (),
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
    rule_numbers: Any = (),
    bias_BV: Any = None,
) -> Request:
    """What some rows ask for, on the host.

    Args:
      budgets: new tokens that each row may emit.
      eos_ids: token ids that end a row.
      seed: 0 .. 2**64 - 1.
      numbers: row i draws from the key of prompt number numbers[i]; default: i.
      samples: row i is continuation number samples[i] of its prompt; default: 0.
      rule_numbers: the rule's own, arrays with an entry per row.
      bias_BV: float32, see `Request`.
    """
    slots = max(_EOS_SLOTS, len(eos_ids))
    eos_E = np.asarray([*eos_ids, *[-1] * (slots - len(eos_ids))], np.int32)
    number_B = np.asarray(range(len(budgets)) if numbers is None else numbers, np.uint32)
    sample_B = np.asarray([0] * len(budgets) if samples is None else samples, np.uint32)
    arrays: Any = {
        "budget_B": np.asarray(budgets, np.int32),
        "eos_BE": np.tile(eos_E, (len(budgets), 1)),
        "key_B2": _key_data(seed, number_B, sample_B),
    }
    return Request(**arrays, rule_numbers=rule_numbers, bias_BV=bias_BV)


def _key_data(seed: int, number_B: np.ndarray, sample_B: np.ndarray) -> np.ndarray:
    """uint32 [B, 2]: the seed's key folded with every number and sample.

    The first sample has what `jax.random.fold_in` makes of the number. Seeds below 2**32 give the
    key of `jax.random.key(seed)`, which takes larger ones modulo 2**32 and none from 2**63 on.
    """
    halves = np.asarray([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32)
    return np.asarray(_folded(halves, np.stack([sample_B, number_B], axis=1)))


@jax.jit
def _folded(key_2: jax.Array, count_B2: jax.Array) -> jax.Array:
    return jax.vmap(threefry_2x32, (None, 0))(key_2, count_B2)
