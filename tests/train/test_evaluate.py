"""The command: the model's own greedy replies take the steps of decoding; errors are one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

import medusa_jax
from medusa_jax.chat import tokenize
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.environment import environment
from medusa_jax.io.heads.save import save_heads
from medusa_jax.tree.presets import load_tree
from tests.commands import ROOT, quick, run_many
from tests.medusa_jax.running import fitted_heads
from tests.train.processes import free_port, outputs_of
from train.data import sharegpt
from train.evaluation.divergence import mean_divergence

# Special tokens beside the words, so that a reply's text has the tokens that the model wrote.
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)
PROMPTS = ["Lily", "Tim and the dog", "a park", "Mom said yes"]
MANY = ["--quantize=int8", "--walk"]


def row(prompt, reply, **other):
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": reply}]
    return {"id": f"{prompt}_0", "conversations": turns, **other}


@pytest.fixture(scope="module")
def setup(stories260k, tmp_path_factory):
    """Folder with a model, its fitted heads and its replies; and the replies."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "model").mkdir()
    for file in stories260k.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / "model" / file.name).symlink_to(file)
    settings = json.loads((stories260k / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    lm = medusa_jax.load(str(folder / "model"), "none")
    encoded = [list(encode_prompt(lm, prompt).ids) for prompt in PROMPTS]
    plain = medusa_jax.generate(lm, PROMPTS, batch_size=4, max_new_tokens=60)
    with_heads = fitted_heads(lm, encoded[:2], [reply.token_ids for reply in plain[:2]])
    save_heads(
        folder / "heads",
        with_heads.heads_config,
        with_heads.heads_params,
        format="A",
        base_model="",
        vocab_size=lm.config.vocab_size,
    )
    lm = medusa_jax.load(str(folder / "model"), str(folder / "heads"), tree="mc_sim_7b_63")
    replies = medusa_jax.generate(lm, PROMPTS, batch_size=4, max_new_tokens=60)
    rows = []
    for prompt, ids, reply in zip(PROMPTS, encoded, replies, strict=True):
        truncated = reply.finish_reason == "length"
        rows.append(row(prompt, reply.text, truncated=truncated))
        messages = [{"role": "user", "content": prompt}]
        messages.append({"role": "assistant", "content": reply.text})
        example = tokenize(lm.tokenizer, messages, truncated=truncated, max_length=999)
        assert example.token_T[example.is_label_T].tolist() == reply.token_ids
        assert example.token_T[: len(ids)].tolist() == ids
    write_rows(folder / "data.jsonl", rows)
    longer = [
        row(prompt, " ".join([reply.text] * number))
        for number, (prompt, reply) in enumerate(zip(PROMPTS, replies, strict=True), 1)
    ]
    write_rows(folder / "many.jsonl", longer)
    write_rows(folder / "broken.jsonl", [rows[0], {"conversations": 3}, rows[1]])
    write_rows(folder / "question.jsonl", [{"conversations": rows[0]["conversations"][:1]}])
    return folder, replies


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def done(setup):
    """What each command line printed, by name."""
    folder, _ = setup
    base = [f"--model={folder / 'model'}", "--compilation_cache=none"]
    heads = [*base, f"--medusa={folder / 'heads'}"]
    data = f"--data={folder / 'data.jsonl'}"
    commands = {
        "walk": [*heads, data, "--walk"],
        "chain": [*heads, data, "--tree=chain:1", "--walk"],
        "best": [*heads, data, f"--best_tree={folder / 'tree.json'}"],
        "same": [*heads, data, f"--best_tree={folder / 'same.json'}"],
        "no_heads": [*base, "--medusa=none", data, f"--best_tree={folder / 'x.json'}"],
        "none": [*base, "--medusa=none", data, "--max_length=20"],
        "skip": [*heads, f"--data={folder / 'broken.jsonl'}", "--data_errors=skip"],
        "stop": [*heads, f"--data={folder / 'broken.jsonl'}"],
        "question": [*heads, f"--data={folder / 'question.jsonl'}"],
        "missing": [*heads, f"--data={folder / 'nowhere.jsonl'}"],
        "deep": [*heads, data, "--tree=chain:9"],
        "no_data": heads,
        "many": [*heads, f"--data={folder / 'many.jsonl'}", *MANY],
        "no_folder": [*heads, data, f"--output={folder}/x/y.json"],
    }
    argvs = [[f"--output={folder / name}.json", *argv] for name, argv in commands.items()]
    return dict(zip(commands, run_many("train.evaluate", argvs, quick()), strict=True))


def metrics(setup, done, name):
    assert done[name].code == 0, done[name].err
    return without_provenance(setup[0] / f"{name}.json")


def without_provenance(path):
    found = json.loads(path.read_text())
    assert found["command"].startswith("python -m train.evaluate")
    return {key: value for key, value in found.items() if key not in environment("train.evaluate")}


def test_the_walk_over_greedy_replies_is_decoding(setup, done):
    found = metrics(setup, done, "walk")
    tokens = sum(reply.num_new_tokens for reply in setup[1])
    steps = sum(reply.num_steps for reply in setup[1])
    assert found["num_tokens"] == tokens
    assert found["tokens_per_step"] == pytest.approx(tokens / steps, rel=1e-12)
    assert 1.2 < found["tokens_per_step"] < 5
    assert f"{tokens / steps:.3f} walked" in done["walk"].out


def test_the_report_has_every_name(setup, done):
    found = metrics(setup, done, "walk")
    lists = ["head_loss", *(f"head_top{k}" for k in range(1, 6)), "head_coverage"]
    assert set(found) == {
        "num_tokens",
        "lm_loss",
        "expected_tokens_per_step",
        "tokens_per_step",
        *lists,
    }
    assert all(len(found[name]) == 4 for name in lists)
    top = np.asarray([found[f"head_top{k}"] for k in range(1, 6)])
    assert (np.diff(top, axis=0) >= 0).all()
    assert top.min() > 0
    assert found["head_coverage"] == [1.0] * 4


def test_a_chain_of_one_yields_the_first_heads_accuracy(setup, done):
    """Every label but a reply's last has a label behind it."""
    found, replies = metrics(setup, done, "chain"), setup[1]
    hits = (found["expected_tokens_per_step"] - 1) * found["num_tokens"]
    # The first label of a reply is the second one behind an earlier token too.
    own = found["head_top1"][0] * found["num_tokens"]
    assert own - len(replies) <= hits <= own
    assert (
        found["expected_tokens_per_step"] < metrics(setup, done, "walk")["expected_tokens_per_step"]
    )


def test_without_heads_and_cut(setup, done):
    found = metrics(setup, done, "none")
    assert found["head_loss"] == found["head_top5"] == found["head_coverage"] == []
    assert found["expected_tokens_per_step"] == 1
    assert 0 < found["num_tokens"] < 80
    assert "tokens_per_step" not in found


def test_the_best_tree_begins_with_the_likeliest_nodes(setup, done):
    """With independent heads, of two nodes below the root the likelier one comes first."""
    found = metrics(setup, done, "best")
    paths = json.loads((setup[0] / "tree.json").read_text())
    assert load_tree(str(setup[0] / "tree.json"), num_heads=4).R == 64
    top = np.asarray([found[f"head_top{k}"] for k in range(1, 6)])
    share = np.diff(top, axis=0, prepend=0)  # [rank, head]
    pairs = {(0, 0): share[0, 0] * share[0, 1], (1,): share[1, 0]}
    order = sorted(pairs, key=lambda path: paths.index(list(path)))
    assert paths[0] == [0]
    assert pairs[order[0]] >= pairs[order[1]]


def test_two_processes_on_meshes_of_their_own_measure_what_one_does(setup, done, tmp_path):
    """Batches are of one width each, so that both have some."""
    folder, _ = setup
    command = [sys.executable, "-m", "train.evaluate", f"--model={folder / 'model'}", *MANY]
    command += [f"--medusa={folder / 'heads'}", f"--data={folder / 'many.jsonl'}", "--mesh=data=2"]
    command += [f"--output={tmp_path / 'm.json'}", "--compilation_cache=none", "--num_processes=2"]
    command += [f"--coordinator_address=localhost:{free_port()}"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            cwd=ROOT,
            env=quick() | {"JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = outputs_of(processes, seconds=400)
    assert "4 conversations" in outputs[0]
    assert "conversations" not in outputs[1]
    found, expected = without_provenance(tmp_path / "m.json"), metrics(setup, done, "many")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_the_divergence_is_that_of_the_quantised_model(setup, done):
    """From the model as it is, not the other way round."""
    model = str(setup[0] / "model")
    exact, lm = (medusa_jax.load(model, "none", quantize=kind) for kind in ("none", "int8"))
    rows = map(json.loads, (setup[0] / "many.jsonl").read_text().splitlines())
    turns = map(sharegpt.messages, rows)
    examples = [tokenize(lm.tokenizer, x, truncated=False, max_length=2048) for x in turns]
    found = metrics(setup, done, "many")["kl_divergence"]
    assert 0 < found == pytest.approx(mean_divergence(exact, lm, examples), rel=1e-4)


def test_bad_rows_can_be_left_out(setup, done):
    assert metrics(setup, done, "skip")["num_tokens"] == sum(
        reply.num_new_tokens for reply in setup[1][:2]
    )
    assert "broken.jsonl:2" in done["skip"].err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stop", "broken.jsonl:2"),
        ("question", "no assistant's words"),
        ("missing", "nowhere.jsonl"),
        ("deep", "needs 9 heads"),
        ("no_data", "--data and --output"),
        ("no_folder", "cannot write"),
        ("no_heads", "--best_tree needs heads"),
        ("same", "--output and --best_tree name the same file"),
    ],
)
def test_bad_input_is_one_line(setup, done, name, message):
    assert done[name].code == 2
    assert message in done[name].err
    assert len(done[name].err.strip().splitlines()) == 1
    assert not (setup[0] / f"{name}.json").exists()
