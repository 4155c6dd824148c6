"""Programs that are compiled ahead are those that decoding wants, and found when it wants them."""

import dataclasses
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding import programs
from medusa_jax.decoding.buckets import prompt_width
from medusa_jax.decoding.engine import jobs, warming
from medusa_jax.decoding.engine.admission import Admission, Ticket
from medusa_jax.decoding.engine.engine import Engine
from medusa_jax.decoding.engine.warming import Warmer
from medusa_jax.decoding.runtime import Runtime, make_runtime
from medusa_jax.io.load import for_decoding
from medusa_jax.mesh import parse_mesh
from medusa_jax.sharding import param_shardings

BEGIN = 2  # calls of the loop, after which everything else was to be foreseen


class AtOnce:
    """A thread that is done before `submit` returns."""

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future

    def shutdown(self, **_):
        pass


class Late(list):
    """Names of the programs that decoding itself compiles after the first calls of the loop."""

    calls = 0


@pytest.fixture
def late(monkeypatch):
    late, run = Late(), Runtime.run

    def noted(runtime, clock, function, *arrays, **static):
        before = programs._program.cache_info().misses
        results = run(runtime, clock, function, *arrays, **static)
        if programs._program.cache_info().misses > before and late.calls >= BEGIN:
            late.append(function.__name__)
        late.calls += function.__name__ == "decode"
        return results

    monkeypatch.setattr(Runtime, "run", noted)
    return late


def use(monkeypatch, thread):
    """Warms whatever the platform."""

    def make(lm, runtime, idle):
        warmer = Warmer(idle)
        warmer._thread = thread
        return warmer

    monkeypatch.setattr(jobs, "_warmer", make)


def queue():
    """A row that outgrows its cache, and prompts of several widths."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 500, n).tolist() for n in (20, 30, 7, 90)]
    each = [{"max_new_tokens": n} for n in (30, 420, 5, 8)]
    return prompts, {"each": each, "ignore_eos": True, "batch_size": 2}


def tokens(lm):
    prompts, work = queue()
    work |= {"logprobs": True, "temperature": 1.0, "top_p": 0.9}
    return [answer.token_ids for answer in medusa_jax.generate(lm, prompts, **work)]


def test_what_is_foreseen_is_what_is_needed(short_lm, late, monkeypatch):
    programs.forget()
    cold = tokens(short_lm)
    assert {"grow", "decode", "prefill_rows", "insert"} <= set(late)
    late.clear()
    late.calls = 0
    programs.forget()
    use(monkeypatch, AtOnce())
    assert tokens(short_lm) == cold
    assert not late


def test_the_programs_of_a_mesh_are_foreseen(short_lm, late, monkeypatch):
    mesh = parse_mesh("tensor=2")
    params, heads = (
        jax.device_put(x, param_shardings(mesh, x))
        for x in (short_lm.params, short_lm.heads_params)
    )
    spread = dataclasses.replace(short_lm, params=params, heads_params=heads)
    cold = tokens(short_lm)
    late.clear()
    late.calls = 0
    use(monkeypatch, AtOnce())
    assert tokens(for_decoding(spread, mesh, "none")) == cold
    assert late.calls > BEGIN
    assert not late


def test_decoding_waits_for_a_program_that_is_being_compiled(monkeypatch):
    """And counts the seconds as the compiler's."""
    finish, compiled, looked, clock = (
        threading.Event(),
        [],
        threading.Semaphore(0),
        time.perf_counter,
    )

    def compile(*_):
        assert finish.wait(60)
        compiled.append(1)
        return "program"

    def looked_at():
        looked.release()
        return clock()

    monkeypatch.setattr(programs, "_compile", compile)
    monkeypatch.setattr(programs.time, "perf_counter", looked_at)
    programs.forget()
    key = (min, (), None, (np.float32(0),))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(programs.compiled, *key) for _ in range(2)]
        for _ in both:
            assert looked.acquire(timeout=60)  # each has found that it is not compiled yet
        finish.set()
        assert [future.result()[0] for future in both] == ["program"] * 2
        assert all(future.result()[1] > 0 for future in both)
    assert programs.compiled(*key) == ("program", 0.0)
    assert len(compiled) == 1
    programs.forget()


def test_what_fails_ahead_does_not_end_the_decoding(short_lm, monkeypatch):
    failed = []

    def broken(*_):
        failed.append(1)
        raise ValueError("the compiler is out of memory")

    cold = tokens(short_lm)
    monkeypatch.setattr(warming, "_grown", broken)
    monkeypatch.setattr(warming, "_inserted", broken)
    use(monkeypatch, ThreadPoolExecutor(1))
    assert tokens(short_lm) == cold
    assert failed


@pytest.mark.parametrize(
    ("free", "lengths", "sizes"),
    [
        (1, [20, 40], {(1, 32), (1, 48)}),
        (5, [20] * 9, {(1, 32), (2, 32), (4, 32)}),
        (5, [20] * 3, {(1, 32), (2, 32)}),  # no more are waiting
        (5, [200] * 9, {(1, 256), (2, 256)}),  # 512 tokens at once
        (2, [600, 20], {(1, 32), (2, 32)}),  # chunks are not foreseen
    ],
)
def test_prompts_are_foreseen_in_groups_as_they_are_run(free, lengths, sizes):
    queue = Admission(None, None, None)
    queue.waiting.extend(Ticket(i, 0, [5] * n, 9) for i, n in enumerate(lengths))
    assert queue.sizes(free) == sizes
    if max(lengths) <= 512:
        group = queue._group(free)
        assert (len(group), prompt_width(max(len(t.ids) for t in group))) in sizes


@pytest.mark.parametrize(("bound", "depth"), [(5000, 4), (700, 4), (450, 0)])
@pytest.mark.parametrize("now", [256, 384, 512, 768])
def test_a_cache_grows_to_the_size_that_was_foreseen(now, bound, depth):
    """Wherever its rows end, and not before a step might not fit."""
    for length in range(now - depth - 1, now + 1):
        engine, grown = Engine.__new__(Engine), []
        row = SimpleNamespace(length=length, bound=max(bound, now + 1))
        engine._rows, engine._steering = [row], SimpleNamespace(depth=depth)
        engine.state = SimpleNamespace(cache=SimpleNamespace(capacity=now))
        engine.clock = None
        run = lambda *_, capacity, grown=grown: grown.append(capacity)  # noqa: E731
        engine._runtime = SimpleNamespace(run=run)
        foreseen = engine._larger_capacity(now)
        engine._make_room()
        assert grown == ([foreseen] if length + 1 + depth > now else [])
        assert foreseen > now


def test_a_cache_that_need_not_grow_is_left_alone(monkeypatch):
    monkeypatch.setattr(warming, "abstract", lambda x: x)
    state, asked = SimpleNamespace(cache=SimpleNamespace(capacity=256)), []
    warmer = Warmer(None)
    warmer._thread = SimpleNamespace(submit=lambda *args: asked.append(args[-1]))
    for capacity in (256, 384, 384, 512):
        warmer.larger_cache(None, state, (), capacity)
    assert asked == [384, 512]


def test_only_tpus_of_one_process_are_warmed_for(short_lm):
    """Whose compiler is their host's, and has nobody to agree with."""
    runtime = make_runtime(short_lm)
    assert jobs._warmer(short_lm, runtime, None) is None
    assert jobs._warmer(SimpleNamespace(platform="gpu"), runtime, None) is None
    tpu = SimpleNamespace(platform="tpu")
    assert jobs._warmer(tpu, runtime, None)
    assert jobs._warmer(tpu, SimpleNamespace(is_shared=True), None) is None
