"""How several processes that train together find each other, and which rows each of them reads."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from medusa_jax.errors import UserError
from medusa_jax.sharding import batch_sharding
from train.folder import AnyPath, reaching

_T = TypeVar("_T")

_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT at which process 0 listens. TPU pods, SLURM, Open MPI and Kubernetes need none of "
    "these three flags.",
)
_COUNT = flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", lower_bound=0)


def initialize_from_flags() -> None:
    """`initialize` with the command line's flags."""
    initialize(_ADDRESS.value, _COUNT.value, _ID.value)


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes; does nothing for a single one. Call it before using JAX.

    Args:
      coordinator_address: "HOST:PORT" of process 0.
      num_processes: of the run.
      process_id: of this process. If none of the three is given, the environment tells: TPU pods,
        SLURM, Open MPI, Kubernetes; if it tells nothing, this process is the only one.

    Raises:
      UserError: only some are given, or they make no sense.
    """
    given = (coordinator_address, num_processes, process_id)
    if num_processes == 1 or jax.distributed.is_initialized():
        return
    if given == (None, None, None):
        _join_detected()
        return
    if coordinator_address is None or num_processes is None or process_id is None:
        raise UserError(
            "give all of --coordinator_address, --num_processes and --process_id, or none of them"
        )
    if not coordinator_address.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator_address={coordinator_address}: write HOST:PORT")
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} with --num_processes={num_processes}: count from 0 to "
            f"{num_processes - 1}"
        )
    jax.distributed.initialize(coordinator_address, num_processes, process_id)


def _join_detected() -> None:
    try:
        jax.distributed.initialize()
    except ValueError as error:  # JAX's way to say that it knows no cluster here
        if "coordinator_address" not in str(error):
            raise
    except RuntimeError as error:  # a notebook that has used JAX before: one process
        if "must be called before" not in str(error):
            raise


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes logs."""
    return jax.process_index() == 0


def from_each(value: np.ndarray) -> np.ndarray:
    """The values of all processes, stacked along a new first axis; every process calls it.

    Args:
      value: of the same shape and dtype (of at most 32 bits) on every process.
    """
    if jax.process_count() == 1:
        return value[None]
    return np.asarray(multihost_utils.process_allgather(value))


def own_share(items: Iterable[_T]) -> Iterator[_T]:
    """This process's share of what all processes have in the same order."""
    return islice(items, jax.process_index(), None, jax.process_count())


def sum_over_processes(values_N: np.ndarray) -> np.ndarray:
    """float64 [N], the sums of what each process has (float64 [N]); every process calls it."""
    words = from_each(values_N.view(np.uint32))  # JAX's arrays hold no 64-bit numbers
    return words.view(np.float64).sum(axis=0)


def together(function: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """What `function` returns; if it refuses on some process, all refuse and none is left waiting.

    Raises:
      UserError: this process's own, or one that names the process that refused.
    """
    problem, result = None, cast(_T, None)
    try:
        result = function(*args, **options)
    except UserError as error:
        problem = error
    is_bad_P = from_each(np.asarray(problem is not None))
    if problem:
        raise problem
    if is_bad_P.any():
        raise UserError(f"process {int(is_bad_P.argmax())} cannot start: see what it says")
    return result


def check_shared(workdir: AnyPath) -> None:
    """Refuses a folder that cannot be written or that some process does not see.

    The first process writes a file for the others to look for, and removes it again. A local
    folder of a single process is not touched. Every process calls it, and all refuse.

    Args:
      workdir: of the run, as this process names it.

    Raises:
      UserError: see above.
    """
    if jax.process_count() == 1 and isinstance(workdir, Path):
        return
    # A new name for every start: what a file system remembers of older ones does not matter.
    token = int(from_each(np.asarray(secrets.randbits(31), np.int32))[0])
    file = workdir / f".shared-{token:08x}"
    is_new = isinstance(workdir, Path) and not workdir.exists()
    problem = _problem_of(lambda: _write_token(file), workdir) if is_first_process() else ""
    _refuse_together(problem, workdir)
    seen: list[bool] = []
    _refuse_together(_problem_of(lambda: seen.append(file.exists()), workdir), workdir)
    is_seen = from_each(np.asarray(seen[0]))
    problem = ""
    if is_first_process():
        problem = _problem_of(lambda: _remove_token(file, is_new), workdir)
    _refuse_together(problem, workdir)
    if not is_seen.all():
        raise UserError(
            f"process {int(is_seen.argmin())} does not see what process 0 writes to {workdir}: "
            "name a --workdir on a disk that all hosts share, or gs://BUCKET/PATH"
        )


def _write_token(file: AnyPath) -> None:
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")


def _remove_token(file: AnyPath, with_folder: bool) -> None:
    file.unlink()
    if with_folder:
        file.parent.rmdir()


def _problem_of(action: Callable[[], None], workdir: AnyPath) -> str:
    """What goes wrong in an action; not raised, since the other processes wait to hear of it."""
    try:
        with reaching(workdir):
            action()
    except OSError as error:
        return f"cannot write to {workdir} ({error.strerror}): choose another --workdir"
    except UserError as error:
        return str(error)
    return ""


def _refuse_together(problem: str, workdir: AnyPath) -> None:
    """Raises UserError on every process when one has a problem; every process calls it."""
    has_problem = from_each(np.asarray(bool(problem)))
    if has_problem.any():
        number = int(has_problem.argmax())
        raise UserError(problem or f"process {number} cannot write to {workdir}: see there")


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process reads, and how many parts there are.

    Processes whose devices hold the same rows (a tensor axis over several processes) read the same
    part, so that parts can be fewer than processes.

    Args:
      mesh: from `medusa_jax.mesh.make_mesh`.

    Raises:
      UserError: the rows of two processes overlap in part.
    """
    num_rows = mesh.shape["data"] * mesh.shape["fsdp"]
    rows: dict[int, set[int]] = {}
    for row, devices in enumerate(mesh.devices.reshape(num_rows, -1)):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(part)) for part in rows.values()})
    if sum(map(len, parts)) != num_rows or len(set(map(len, parts))) > 1:
        raise UserError(
            f"the mesh {dict(mesh.shape)} lets processes share some rows of the batch: choose "
            "tensor so that it divides the devices of a process, or is a multiple of them"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def global_batch(mesh: Mesh, batch: Any) -> Any:
    """A batch on the mesh, to which each process contributes its part.

    Args:
      mesh: from `medusa_jax.mesh.make_mesh`.
      batch: pytree of numpy arrays, rows first: part i of n (see `batch_part`) of each.

    Returns:
      `jax.Array`s with n times the rows, spread over "data" and "fsdp".
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(batch_sharding(mesh, x.ndim), x), batch
    )
