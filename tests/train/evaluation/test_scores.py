"""Scores against full logits and loops in numpy, and the walk against real decoding."""

import dataclasses

import jax
import numpy as np
import pytest

from medusa_jax.chat import Example
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.mesh import make_mesh
from medusa_jax.objectives.accuracy import MISS
from medusa_jax.sharding import param_shardings
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.tiny import _WIDTH, _forward, tiny_lm
from tests.train.evaluation.samples import DRAFT, PATHS, TREE, V, conversations, lm_with
from train.evaluation.scores import score, score_each


def head_logits(lm, hidden, following):
    """[M, vocabulary of the heads] at one position (paper, section 2.1.1).

    Tokens that follow are there as far as the text goes; without those that it sees, what a head
    says does not count.
    """
    c = lm.heads_config
    params = jax.tree.map(np.asarray, lm.heads_params)
    rows = np.asarray(lm.params["lm_head"]["weight"])
    logits = []
    for m in range(c.num_heads):
        x = hidden
        for layer in range(c.num_layers):
            y = params["blocks"]["weight"][m, layer] @ x + params["blocks"]["bias"][m, layer]
            if c.conditioning != "none" and layer == 0:
                y = y + params["root"]["weight"][m] @ embedded(lm, following[0])
            x = x + y / (1 + np.exp(-y))
        own = params["projection"]["weight"][m] if c.own_projection else rows
        logits.append((own[params["token_map"]] if c.draft_vocab else own) @ x)
        if c.conditioning == "markov" and m < len(following):
            z = params["markov_in"]["weight"] @ embedded(lm, following[m])
            logits[-1] = logits[-1] + params["markov_out"]["weight"] @ z
    return np.stack(logits)


def embedded(lm, token):
    e = np.asarray(lm.params["embed"]["weight"])[token]
    return e / np.sqrt(np.mean(e * e))


def entropy(logits, label):
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def ranks(lm, example):
    """Per position: the base head's loss, and per head the loss and the rank (None: no label)."""
    token, is_label = example.token_T.tolist(), example.is_label_T
    padded = np.zeros((1, _WIDTH), np.int32)
    padded[0, : len(token)] = token
    hidden = np.asarray(_forward(lm.config, lm.params, padded))[0]
    rows = np.asarray(lm.params["lm_head"]["weight"])
    heads = lm.heads_config.num_heads if lm.heads_config else 0
    out = []
    for t in range(len(token) - 1):
        base = entropy(rows @ hidden[t], token[t + 1]) if is_label[t + 1] else None
        found = [None] * heads
        logits = head_logits(lm, hidden[t], token[t + 1 :]) if heads else None
        for k in range(1, heads + 1):
            if t + k + 1 < len(token) and is_label[t + k + 1]:
                label, own = token[t + k + 1], logits[k - 1]
                if lm.heads_config.draft_vocab:
                    label = {v: i for i, v in enumerate(DRAFT.tolist())}.get(label)
                found[k - 1] = (None, MISS)
                if label is not None:
                    found[k - 1] = (entropy(own, label), int((own > own[label]).sum()))
        out.append((base, found))
    return out


def reach(found, paths):
    path = ()
    for item in found:
        path += (item[1] if item else None,)
        if path not in paths:
            return len(path) - 1
    return len(path)


def expected_metrics(lm, examples, paths):
    positions = [position for example in examples for position in ranks(lm, example)]
    base = [loss for loss, _ in positions if loss is not None]
    out = {"num_tokens": len(base), "lm_loss": np.mean(base)}
    out |= {f"head_{n}": [] for n in ("loss", "coverage", *(f"top{k}" for k in range(1, 6)))}
    for k in range(lm.heads_config.num_heads if lm.heads_config else 0):
        own = [found[k] for _, found in positions if found[k] is not None]
        inside = [loss for loss, _ in own if loss is not None]
        out["head_loss"].append(np.mean(inside))
        out["head_coverage"].append(len(inside) / len(own))
        for top in range(1, 6):
            out[f"head_top{top}"].append(np.mean([rank < top for _, rank in own]))
    paths = {tuple(path) for path in paths}
    reached = [reach(found, paths) for loss, found in positions if loss is not None]
    out["expected_tokens_per_step"] = 1 + np.mean(reached)
    return out


@pytest.mark.parametrize("kind", ["none", "shared", "own", "own, markov", "draft"])
def test_metrics_are_those_of_full_logits(kind):
    lm, examples = lm_with(kind), conversations()
    tree = build_tree([]) if kind == "none" else TREE
    seen = []
    metrics = score(lm, tree, examples, seen.append).metrics()
    expected = expected_metrics(lm, examples, [] if kind == "none" else PATHS)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    assert sum(seen) == len(examples)
    if kind != "none":
        assert metrics["expected_tokens_per_step"] > 1
        assert (metrics["head_coverage"][0] < 1) == (kind == "draft")


def test_conversations_do_not_influence_each_other():
    lm, examples = lm_with("shared"), conversations()
    together = score(lm, TREE, examples, lambda _: None)
    alone = [score(lm, TREE, [example], lambda _: None) for example in examples]
    for one, other in zip(score_each(lm, TREE, examples), alone, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_allclose(value, vars(other)[name], rtol=1e-4, err_msg=name)
    for field in dataclasses.fields(together):
        total = sum(getattr(scores, field.name) for scores in alone)
        np.testing.assert_allclose(getattr(together, field.name), total, rtol=1e-6)


@pytest.mark.parametrize("kind", ["own", "draft"])
def test_a_mesh_changes_nothing(kind):
    """Eight devices of all kinds; some batches have fewer rows than there are devices."""
    lm, examples, mesh = lm_with(kind), conversations(), make_mesh(2, 2, 2)
    whole = {"params": lm.params, "heads_params": lm.heads_params}
    spread = jax.tree.map(jax.device_put, whole, param_shardings(mesh, whole))
    found = score(dataclasses.replace(lm, **spread), TREE, examples, lambda _: None)
    expected = vars(score(lm, TREE, examples, lambda _: None))
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-5, err_msg=name)


def test_heads_without_labels_are_null():
    example = Example(np.asarray([1, 2, 3, 4], np.int32), np.asarray([False, False, True, False]))
    metrics = score(lm_with("shared"), TREE, [example], lambda _: None).metrics()
    assert metrics["num_tokens"] == 1
    assert metrics["head_loss"][0] is not None
    assert metrics["head_loss"][1:] == metrics["head_top1"][1:] == [None] * 3


def test_the_walk_takes_as_many_steps_as_decoding():
    """Greedy replies of several budgets, some of which end at EOS."""
    lm = tiny_lm("mc_sim_7b_63", eos_ids=(9, 10))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, V, size).tolist() for size in (3, 8, 15, 21, 30)]
    runtime = make_runtime(lm)
    request = make_request([40, 9, 25, 1, 33], lm.eos_ids)
    batch = runtime.advance(runtime.start(request, prompts))
    state = jax.device_get(batch.state)
    for i, prompt in enumerate(prompts):
        reply = state.output_BO[i, : state.num_new_B[i]]
        token = np.concatenate([np.asarray(prompt, np.int32), reply])
        example = Example(token, np.arange(len(token)) >= len(prompt))
        scores = score(lm, load_tree("mc_sim_7b_63"), [example], lambda _: None)
        assert scores.num_tokens == len(reply)
        assert scores.steps == state.num_steps_B[i]
    assert state.stopped_B.any()
    assert not state.stopped_B.all()
    assert state.num_steps_B.sum() < state.num_new_B.sum()
