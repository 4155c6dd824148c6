"""Which tree to decode with: expected tokens per step over predicted seconds per step."""

import dataclasses
from collections.abc import Collection, Mapping

PLAIN = 1  # nodes of plain decoding: the root


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What one size of tree promises.

    Attributes:
      tokens: expected per step and row, at least 1.
      seconds: predicted per step.
    """

    tokens: float
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second and row."""
        return self.tokens / self.seconds


@dataclasses.dataclass(frozen=True)
class Choice:
    """A size of tree, and what it is expected to give.

    Attributes:
      nodes: of the tree; 1 for plain decoding.
      tokens: expected per step.
      gain: expected speed over that of plain decoding.
      source: "measured" or "estimated", of both quantities.
    """

    nodes: int
    tokens: float
    gain: float
    source: str

    def __str__(self) -> str:
        if self.nodes == PLAIN:
            return f"tree auto: plain decoding, no tree is faster here ({self.source})"
        return (
            f"tree auto: {self.nodes} nodes, {self.tokens:.1f} tokens per step expected, "
            f"{self.gain:.1f}x plain decoding ({self.source})"
        )


def best_size(
    outlooks: Mapping[int, Outlook],
    *,
    remaining: float,
    ready: Collection[int] = (),
    compile_seconds: float = 0.0,
    current: int | None = None,
) -> int:
    """The size that finishes first.

    Args:
      outlooks: by nodes.
      remaining: tokens per row that are still to come.
      ready: sizes whose programs are compiled.
      compile_seconds: what any other size costs first.
      current: size that decodes now; leaving it costs a step whose draft is lost.

    Returns:
      The nodes with the least total time; at ties, the smaller tree.
    """

    def total(nodes: int) -> float:
        own = outlooks[nodes]
        switch = 0.0 if current in (None, nodes) else own.seconds * (1 - 1 / own.tokens)
        return remaining / own.speed + switch + (0.0 if nodes in ready else compile_seconds)

    return min(sorted(outlooks), key=total)


def choice(nodes: int, outlooks: Mapping[int, Outlook], source: str) -> Choice:
    """Says what was chosen; `outlooks` holds plain decoding too."""
    own = outlooks[nodes]
    return Choice(nodes, own.tokens, own.speed / outlooks[PLAIN].speed, source)
