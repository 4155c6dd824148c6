import dataclasses
import json
from pathlib import Path

import pytest

import medusa_jax
from medusa_jax.io import default_model
from medusa_jax.io.cache import cache_dir

TREE = "mc_sim_7b_63:16"
PROMPTS = ["Once upon a time", "Lily and Tom went to the big park. One day, they saw a", "The cat"]
CHAT = [{"role": "user", "content": "Tell me about Lily."}]
FIELDS = [
    *("prompt", "text", "token_ids", "num_new_tokens", "num_steps", "tokens_per_step"),
    *("prefill_seconds", "decode_seconds", "tokens_per_second", "compile_seconds"),
    *("finish_reason", "sample", "logprobs", "tree", "accepted"),
]
SECONDS = ("prefill_seconds", "decode_seconds", "tokens_per_second", "compile_seconds")


def flags(**values: object) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def prompt_flags(prompts=PROMPTS) -> list[str]:
    return [f"--prompt={prompt}" for prompt in prompts]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in SECONDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


def test_64_bit_numbers_change_no_text(cli, stories260k, heads):
    """Whoever uses JAX for something else may have switched them on."""
    argv = flags(model=stories260k, medusa=heads, tree=TREE, max_new_tokens=12, prompt=PROMPTS[0])
    wide = dataclasses.replace(cli, environment=cli.environment | {"JAX_ENABLE_X64": "1"})
    usual, other = cli(*argv), wide(*argv)
    assert (other.code, other.out) == (0, usual.out), other.err


@pytest.fixture(scope="module")
def results(cli, stories260k, heads, chat_model, folder):
    """Every command of this file that can share a process, by name."""
    texts = "".join(f"{json.dumps({'prompt': prompt, 'id': 7})}\n" for prompt in PROMPTS)
    (folder / "plain.jsonl").write_text(texts)
    (folder / "chat.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
    (folder / "prompt.txt").write_text("Once upon\na time")
    (folder / "tree.json").write_text("[[0], [1], [0, 0]]")
    plain = flags(model=stories260k, dtype="float32", max_new_tokens=40)
    medusa = [*plain, *flags(medusa=heads, tree=TREE)]
    sampled = [*medusa, *flags(temperature=1, acceptance="typical", prompt=PROMPTS[0])]
    compared = [*medusa, "--compare"]
    chat = flags(model=chat_model, medusa="none", max_new_tokens=8)

    def into(name: str) -> str:
        return f"--output={folder / name}"

    commands = {
        "help": ["--help"],
        "stream": [*medusa, *prompt_flags(), "--stream"],
        "nostream": [*medusa, *prompt_flags()],
        "file": [*medusa, f"--prompt_file={folder}/plain.jsonl", "--batch_size=2", into("file")],
        "txt": [*medusa, f"--prompt_file={folder}/prompt.txt", into("txt")],
        "tree file": [*medusa, *prompt_flags(), f"--tree={folder}/tree.json", into("tree")],
        "seed 3": [*sampled, "--seed=3"],
        "seed 3, root": [*sampled, "--seed=3", "--sampled_root"],
        "seed 3, root, stream": [*sampled, "--seed=3", "--sampled_root", "--stream"],
        "seed 4, root": [*sampled, "--seed=4", "--sampled_root"],
        "stop": [*medusa, *prompt_flags(PROMPTS[:1]), "--stop=nothing", "--stop= a "],
        "system": [*chat, *prompt_flags([CHAT[0]["content"]]), "--system=Rhyme.", into("system")],
        "chat": [*chat, *prompt_flags([CHAT[0]["content"]])],
        "messages": [*chat, f"--prompt_file={folder}/chat.jsonl", into("messages")],
        "nochat": [*chat, *prompt_flags(PROMPTS[:1]), "--nochat"],
        "compare": [*compared, *prompt_flags(PROMPTS[:1])],
        "compare stream": [*compared, *prompt_flags(PROMPTS[:2]), "--stream"],
        "compare many": [*compared, *prompt_flags(), "--batch_size=2", into("compare")],
    }
    done = dict(zip(commands, cli.many(list(commands.values())), strict=True))
    bad = {name: result for name, result in done.items() if result.code != 0}
    assert not bad
    return done


@pytest.fixture(scope="module")
def expected(lm) -> list[medusa_jax.Generation]:
    return medusa_jax.generate(lm, PROMPTS, max_new_tokens=40)


@pytest.fixture(scope="module")
def autoregressive(backbone) -> list[medusa_jax.Generation]:
    return medusa_jax.generate(backbone, PROMPTS, max_new_tokens=40)


def test_output_is_the_api_s_answer_and_equals_plain_greedy_decoding(
    cli, stories260k, heads, folder, expected, autoregressive
):
    path = folder / "contract.jsonl"
    result = cli(
        *flags(model=stories260k, medusa=heads, tree=TREE, max_new_tokens=40, batch_size=2),
        *flags(temperature=0, acceptance="greedy", epsilon=0.2, delta=0.4, seed=1),
        *("--nochat", "--dtype", "float32", "--nosampled_root", "--nocompare", "--nostream"),
        *prompt_flags(),
        f"--output={path}",
        f"--tree_picture={folder}/tree.svg",
    )
    assert (result.code, result.out) == (0, "")
    picture = (folder / "tree.svg").read_text()
    assert f"of {sum(row.num_steps for row in expected)}<" in picture
    for node in range(1, len(expected[0].accepted)):
        assert f"{sum(row.accepted[node] for row in expected)}x<" in picture
    rows = rows_of(path)
    assert [without_times(row) for row in rows] == [
        without_times(dataclasses.asdict(generation)) for generation in expected
    ]
    assert [row["token_ids"] for row in rows] == [plain.token_ids for plain in autoregressive]
    for row, prompt in zip(rows, PROMPTS, strict=True):
        assert list(row) == FIELDS
        assert row["prompt"] == prompt
        assert row["num_new_tokens"] == len(row["token_ids"]) == 40
        assert row["num_steps"] < 40  # the heads did propose something
        assert row["tokens_per_step"] == 40 / row["num_steps"]
        assert row["tokens_per_second"] == pytest.approx(40 / row["decode_seconds"])
        assert row["finish_reason"] == "length"
        assert min(row["prefill_seconds"], row["decode_seconds"]) > 0
    assert rows[0]["compile_seconds"] == rows[1]["compile_seconds"] > rows[2]["compile_seconds"]


def test_stderr_says_what_decodes_and_how_fast_and_nothing_else(results):
    lines = results["nostream"].err.splitlines()
    assert "float32 on cpu, 4 heads, tree of 16 nodes" in lines[0]
    assert lines[1:4] == [f"--- prompt {n} of 3" for n in (1, 2, 3)]
    assert lines[4].startswith("3 answers, 120 tokens in ")
    assert "tokens/step" in lines[4]
    assert "tokens/s" in lines[4]
    assert len(lines) == 5


@pytest.mark.parametrize("name", ["stream", "nostream"])
def test_stdout_holds_the_texts_and_nothing_else(results, expected, name):
    assert results[name].out == "".join(f"{generation.text}\n" for generation in expected)


@pytest.mark.parametrize("name", ["file", "tree"])
def test_rows_keep_the_order_of_the_prompts(results, folder, autoregressive, name):
    rows = rows_of(folder / name)
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["token_ids"] for row in rows] == [plain.token_ids for plain in autoregressive]


def test_output_without_streaming_keeps_stdout_empty(results):
    assert results["file"].out == ""


def test_a_txt_file_is_one_prompt_with_its_line_ends(results, folder, lm):
    (row,) = rows_of(folder / "txt")
    (generation,) = medusa_jax.generate(lm, ["Once upon\na time"], max_new_tokens=40)
    assert (row["prompt"], row["token_ids"]) == ("Once upon\na time", generation.token_ids)


def test_a_prompt_is_a_chat_message_where_there_is_a_template(results, folder, backbone):
    text = "user: Tell me about Lily.\nassistant:"
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    (generation,) = medusa_jax.generate(backbone, [ids], max_new_tokens=8)
    (row,) = rows_of(folder / "messages")
    assert results["chat"].out == generation.text + "\n"
    assert (row["prompt"], row["token_ids"]) == (CHAT, generation.token_ids)


def test_a_system_message_goes_before_a_prompt(results, folder, backbone):
    text = "system: Rhyme.\nuser: Tell me about Lily.\nassistant:"
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    (generation,) = medusa_jax.generate(backbone, [ids], max_new_tokens=8)
    (row,) = rows_of(folder / "system")
    assert row["token_ids"] == generation.token_ids
    assert row["prompt"] == [{"role": "system", "content": "Rhyme."}, *CHAT]


def test_an_answer_ends_before_a_stop_text(results, expected):
    text = expected[0].text
    assert " a " in text
    assert results["stop"].out == text[: text.index(" a ")] + "\n"


def test_nochat_ignores_the_template(results, backbone):
    (generation,) = medusa_jax.generate(backbone, PROMPTS[:1], max_new_tokens=8)
    assert results["nochat"].out == generation.text + "\n"


def test_seed_and_sampled_root_reach_the_sampler(results):
    outs = {name: result.out for name, result in results.items() if name.startswith("seed")}
    assert outs["seed 3, root"] == outs["seed 3, root, stream"]
    assert len(set(outs.values())) == 3


@pytest.mark.parametrize(("name", "count"), [("compare", 1), ("compare stream", 2)])
def test_compare_prints_the_texts_then_the_report(results, expected, name, count):
    texts = "".join(f"{generation.text}\n" for generation in expected[:count])
    out = results[name].out
    assert out.startswith(texts)
    words = " ".join(out.removeprefix(texts).split())
    assert "│ same text │ │ yes" in words
    assert f"│ tokens │ {40 * count} │ {40 * count} │" in words
    steps = sum(generation.num_steps for generation in expected[:count])
    assert f"│ steps │ {40 * count} │ {steps} │" in words
    assert f"In steps: {steps} passes through the model instead of {40 * count}" in words
    assert "In time: on this machine's CPU" in words
    assert "With a tree of 64 nodes: " in words
    assert ("rounds; " in words) == (count == 1)


def test_compare_writes_medusa_s_rows_with_the_plain_ones_inside(results, folder, expected):
    rows = rows_of(folder / "compare")
    assert [row["measured"]["batch"] for row in rows] == [0, 0, 2]
    assert [row["measured"]["wide"]["nodes"] for row in rows[:2]] == [64, 64]
    assert rows[2]["measured"]["wide"] is None
    assert all(len(row.pop("measured")["speedups"]) == 1 for row in rows)
    assert "│ same text   │                │ yes, all 3 │" in results["compare many"].out
    # No command before it in this process has decoded two prompts at once without a tree.
    assert rows[0]["autoregressive"]["compile_seconds"] > 0
    for row, generation in zip(rows, expected, strict=True):
        assert list(row) == [*FIELDS, "autoregressive"]
        plain = row.pop("autoregressive")
        assert without_times(row) == without_times(dataclasses.asdict(generation))
        assert list(plain) == FIELDS[1:]
        assert (plain["token_ids"], plain["num_steps"]) == (row["token_ids"], 40)
        assert min(plain["decode_seconds"], row["decode_seconds"]) > 0


def test_help_teaches(results):
    text = results["help"].out
    assert text.count("python -m infer.generate") == 3
    for name in ("model", "medusa", "prompt", "prompt_file", "[no]chat", "max_new_tokens"):
        assert f"  --{name}\n" in text
    for name in ("temperature", "acceptance", "epsilon", "delta", "tree", "seed", "dtype"):
        assert f"  --{name}\n" in text
    for name in ("batch_size", "output", "[no]overwrite", "[no]compare", "[no]stream"):
        assert f"  --{name}\n" in text
    for name in ("top_k", "top_p", "min_p", "stop", "logit_bias", "system", "num_samples"):
        assert f"  --{name}\n" in text
    for name in ("[no]ignore_eos", "max_context", "[no]logprobs"):
        assert f"  --{name}\n" in text
    for name in ("[no]sampled_root", "compilation_cache"):
        assert f"  --{name}\n" in text


def test_the_default_model_answers(cli):
    if not (cache_dir() / "models" / default_model._FILE_NAME).is_file():
        pytest.skip("needs the default model in the user's cache")
    # The user's cache, for the model and, from the second run on, for what is compiled.
    user = dataclasses.replace(
        cli, environment=cli.environment | {"MEDUSA_JAX_CACHE": str(cache_dir())}
    )
    question = "What is the capital of France?"
    argv = ["--medusa=none", "--dtype=float32", "--max_new_tokens=8", f"--prompt={question}"]
    result = user(*argv)
    assert result.code == 0
    assert "Paris" in result.out
    assert result.err.startswith("SmolLM2-135M-Instruct: float32 on cpu, no heads")
