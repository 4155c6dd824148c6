"""What the engine knows of each row of its batch, and of the call that is under way."""

import dataclasses
import time
from concurrent.futures import Future

import jax

from medusa_jax.decoding.engine.admission import Ticket
from medusa_jax.decoding.state import Progress
from medusa_jax.tree.dynamic import AnyTree


@dataclasses.dataclass
class Row:
    """A row in use: tokens committed and handed out, and the clock as it was before."""

    ticket: Ticket
    prefill_seconds: float
    compiled_before: float
    begin: float
    num_new: int = 0
    num_steps: int = 0
    seen: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.ticket.ids) + self.num_new

    @property
    def bound(self) -> int:
        """The length that it may reach."""
        return self.ticket.bound


@dataclasses.dataclass(frozen=True)
class Flight:
    """A call under way.

    Attributes:
      progress: what it will have done.
      tree: that it uses.
      compile_seconds: that its programs took to compile.
      began: when, by `time.perf_counter`.
      landed: when it will end.
    """

    progress: Progress
    tree: AnyTree
    compile_seconds: float
    began: float
    landed: Future[float]


def when_ready(progress: Progress) -> float:
    """The time at which the device is done, whatever the host does until it looks."""
    jax.block_until_ready(progress)
    return time.perf_counter()
