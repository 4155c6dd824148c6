"""The worked step of docs/concepts.md is what the code does, number for number."""

import json

import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.tree.presets import load_tree
from tests.docs.pages import DEFAULT_MODEL, ROOT

CONCEPTS = ROOT / "docs" / "concepts.md"
PROMPT = "Write one sentence about a cat."
TREE = "smollm2_135m_63:8"
STEP = 1


@pytest.fixture(scope="module")
def step():
    """Everything the page says of the step, as {name: value}; nodes are numbered as in the tree."""
    if not DEFAULT_MODEL.exists():
        pytest.skip("needs the default model, which medusa_jax.load() downloads")
    lm = medusa_jax.load(tree=TREE, dtype="float32")
    chat = [{"role": "user", "content": PROMPT}]
    encoded = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    ids = list(encoded["input_ids"])
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([32], lm.eos_ids), [ids])
    batch = runtime.advance(batch, STEP - 1)
    tokens = np.array(batch.state.draft.token_BR[0]).tolist()
    before = written(batch.state)
    batch = runtime.advance(batch, 1)
    after = written(batch.state)
    return {
        "lm": lm,
        "prompt": ids,
        "tokens": tokens,
        "before": before,
        "brought": after[len(before) :],
        "next_root": int(batch.state.draft.token_BR[0, 0]),
        "length": int(batch.state.cache.length_B[0]),
        "choices": choices(lm, [*ids, *before], tokens),
    }


def written(state) -> list[int]:
    return np.array(state.output_BO[0, : int(state.num_new_B[0])]).tolist()


def choices(lm, context: list[int], tokens: list[int]) -> list[int]:
    """What plain decoding writes after the path to each node: no tree, no mask, no heads."""
    tree = load_tree(TREE)
    paths = [[tokens[n] for n in np.flatnonzero(row)] for row in tree.mask_RR]
    prompts = [[*context, *path] for path in paths]
    plain = medusa_jax.generate(lm.with_tree("chain:0"), prompts, batch_size=8, max_new_tokens=1)
    return [result.token_ids[0] for result in plain]


def quoted(step, token: int) -> str:
    """A token as the page writes it: `·` stands for a space."""
    return "`" + step["lm"].tokenizer.decode([token]).replace(" ", "·") + "`"


def accepted_nodes(step) -> list[int]:
    """By the definition: a node whose parent is accepted and chooses just its token."""
    tree, nodes = load_tree(TREE), [0]
    for node in range(1, tree.R):
        parent = int(tree.parent_R[node])
        if parent in nodes and step["choices"][parent] == step["tokens"][node]:
            nodes.append(node)
    return nodes


def test_table_of_nodes(step):
    tree, accepted = load_tree(TREE), accepted_nodes(step)
    rows = []
    for node in range(tree.R):
        depth, rank = int(tree.depth_R[node]), int(tree.rank_R[node])
        source = "the model" if node == 0 else f"head {depth}, rank {rank}"
        parent = "" if node == 0 else str(int(tree.parent_R[node]))
        token, choice = quoted(step, step["tokens"][node]), quoted(step, step["choices"][node])
        mark = "accepted" if node in accepted else ""
        rows.append(f"| {node} | {parent} | {source} | {token} | {choice} | {mark} |")
    assert "\n".join(rows) in CONCEPTS.read_text(encoding="utf-8")


def test_mask(step):
    rows = [" ".join(str(int(seen)) for seen in row) for row in load_tree(TREE).mask_RR]
    text = CONCEPTS.read_text(encoding="utf-8")
    assert "\n".join(f"{n}   {row}" for n, row in enumerate(rows)) in text


def test_paths(step):
    assert f"`{json.dumps(load_tree(TREE).paths())}`" in CONCEPTS.read_text(encoding="utf-8")


def test_verdict_and_commit(step):
    text = " ".join(CONCEPTS.read_text(encoding="utf-8").split())
    brought = [step["tokens"][n] for n in accepted_nodes(step)]
    assert step["brought"] == brought
    start = len(step["prompt"]) + len(step["before"])
    assert step["length"] == start + len(brought)
    assert step["next_root"] == step["choices"][accepted_nodes(step)[-1]]
    nodes = ", ".join(map(str, accepted_nodes(step)[:-1])) + f" and {accepted_nodes(step)[-1]}"
    assert f"nodes {nodes}" in text
    assert f"The cache holds {start} positions" in text
    assert f"into slots {start} to {start + len(brought) - 1}" in text
    assert f"next root is {quoted(step, step['next_root'])}" in text
