"""Programs that are compiled ahead are those that decoding wants, and found when it wants them."""

import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding import jobs, programs, warming
from medusa_jax.decoding.runtime import Runtime, make_runtime
from medusa_jax.decoding.warming import Warmer
from medusa_jax.io.load import for_decoding
from medusa_jax.sharding import param_shardings, parse_mesh

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


def test_what_is_foreseen_is_what_is_needed(stories_lm, late, monkeypatch):
    programs.forget()
    cold = tokens(stories_lm)
    assert {"grow", "decode", "prefill_rows", "insert"} <= set(late)
    late.clear()
    late.calls = 0
    programs.forget()
    use(monkeypatch, AtOnce())
    assert tokens(stories_lm) == cold
    assert not late


def test_the_programs_of_a_mesh_are_foreseen(stories_lm, late, monkeypatch):
    mesh = parse_mesh("tensor=2")
    params, heads = (
        jax.device_put(x, param_shardings(mesh, x))
        for x in (stories_lm.params, stories_lm.heads_params)
    )
    spread = dataclasses.replace(stories_lm, params=params, heads_params=heads)
    use(monkeypatch, AtOnce())
    tokens(for_decoding(spread, mesh, "none"))
    assert late.calls > BEGIN
    assert not late


def test_decoding_waits_for_a_program_that_is_being_compiled(monkeypatch):
    """And counts the seconds as the compiler's."""
    entered, finish, compiled = threading.Event(), threading.Event(), []

    def compile(*_):
        entered.set()
        assert finish.wait(60)
        compiled.append(1)
        return "program"

    monkeypatch.setattr(programs, "_compile", compile)
    programs.forget()
    key = (min, (), None, (np.float32(0),))
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(programs.compiled, *key)
        assert entered.wait(60)
        needed = pool.submit(programs.compiled, *key)
        assert not needed.done()
        finish.set()
        assert ahead.result()[0] == needed.result()[0] == "program"
        assert needed.result()[1] > 0
    assert programs.compiled(*key) == ("program", 0.0)
    assert len(compiled) == 1
    programs.forget()


def test_what_fails_ahead_does_not_end_the_decoding(stories_lm, monkeypatch):
    def broken(*_):
        raise ValueError("the compiler is out of memory")

    cold = tokens(stories_lm)
    monkeypatch.setattr(warming, "_grown", broken)
    monkeypatch.setattr(warming, "_inserted", broken)
    use(monkeypatch, ThreadPoolExecutor(1))
    assert tokens(stories_lm) == cold


def test_only_accelerators_of_one_process_are_warmed_for(stories_lm):
    """Whose host has nothing else to do, and nobody to agree with."""
    runtime = make_runtime(stories_lm)
    assert jobs._warmer(stories_lm, runtime, None) is None
    gpu = SimpleNamespace(platform="gpu")
    assert jobs._warmer(gpu, runtime, None)
    assert jobs._warmer(gpu, SimpleNamespace(is_shared=True), None) is None
