"""Whatever a user gets wrong ends in one line on stderr, exit code 2, and no output file."""

import json
import signal

import jax
import jax.numpy as jnp
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import init_heads

# Name -> flags, which follow those of a command that works, and what the line must say. Words in
# braces are paths from the fixture `paths`.
CASES = {
    "no model": ("--model={files}/none", "does not exist: pass a model folder"),
    "no config": ("--model={no_config}", "config.json is missing"),
    "broken config": ("--model={broken_config}", "config.json cannot be read as JSON"),
    "architecture": ("--model={gpt2}", "'gpt2' is not supported: use a llama"),
    "missing tensors": ("--model={six_layers}", "model.layers.5."),
    "wrong shapes": ("--model={narrow}", "shape"),
    "truncated weights": ("--model={truncated}", "model.safetensors"),
    "no heads": ("--medusa={files}/none", "does not exist"),
    "no heads beside": ("--medusa={files}", "heads"),
    "heads of another size": ("--medusa={wide_heads}", "hidden size 128, the model has 64"),
    "heads of another vocabulary": ("--medusa={other_heads}", "of 256 tokens, the model has 512"),
    "unknown tree": ("--tree=mc_sim", "unknown tree 'mc_sim'"),
    "tree json": ("--tree={files}/tree.json", "tree.json: not valid JSON, line 2 column"),
    "tree parent": ("--tree={files}/parent.json", "has no parent: add [0]"),
    "deep tree": ("--tree=chain:5", "needs 5 heads, the model has 4"),
    "tree without heads": ("--medusa=none --tree=chain:2", "needs 2 heads, the model has 0"),
    "no prompt file": ("--prompt_file={files}/none.txt", "cannot read the prompt file"),
    "prompt file row": ("--prompt_file={files}/row.jsonl", "row.jsonl:2: not valid JSON, column"),
    "prompt file key": ("--prompt_file={files}/key.jsonl", "key.jsonl:3: neither a prompt nor"),
    "prompt file keys": (
        "--prompt_file={files}/keys.jsonl",
        "keys.jsonl:1: it has messages and prompt: keep one of them",
    ),
    "prompt file name": ("--prompt_file={files}/a.csv", "must end in .txt or .jsonl"),
    "long prompt": ("--prompt_file={files}/long.txt", "only 512: shorten the prompt"),
    "second prompt": ("--prompt=a --prompt_file={files}/long.txt", "prompt 2: the prompt has"),
    "messages": ("--prompt_file={files}/chat.jsonl", "no chat template"),
    "chat": ("--chat", "plain text (in infer.generate --nochat)"),
    "system": ("--nochat --system=Rhyme", "--system needs the chat template"),
    "nochat": ("--nochat --prompt_file={files}/chat.jsonl", "leave out --nochat"),
    "temperature": ("--temperature=-1", "temperature is -1.0: it must be 0 or more"),
    "temperature nan": ("--temperature=nan", "temperature is nan: it must be 0 or more"),
    "temperature text": ("--temperature=hot", "--temperature=hot"),
    "greedy sampling": ("--temperature=1 --acceptance=greedy", "choose acceptance lossless"),
    "acceptance": ("--acceptance=lazy", "<greedy|typical|lossless>"),
    "dtype": ("--dtype=float8", "<float32|bfloat16|float16>"),
    "epsilon": ("--epsilon=2", "epsilon must lie between 0 and 1"),
    "epsilon alone": ("--temperature=1 --epsilon=0.2", "choose acceptance typical"),
    "output": ("--output=", "cannot write : it is not a regular file, name another one"),
    "max_new_tokens": ("--max_new_tokens=0", "max_new_tokens is 0: it must be at least 1"),
    "batch_size": ("--batch_size=0", "--batch_size=0"),
    "seed": ("--seed=-1", "--seed=-1"),
    "large seed": ("--seed=18446744073709551616", "--seed=18446744073709551616"),
    "unknown flag": ("--promt=a", "Did you mean: prompt"),
    "argument": ("hello", "unexpected argument 'hello'"),
    "compared samples": ("--compare --num_samples=2", "leave out --num_samples"),
    "bias": ("--logit_bias=a:1", "write a token id and a number"),
    "two biases": ("--logit_bias=5:1 --logit_bias=5:2", "names a token twice"),
    "nobody's model": ("--model=~nobody-of-this-name/m", "does not exist"),
    "nobody's output": ("--output=~nobody-of-this-name/a.jsonl", "cannot write"),
    "stop": ("--stop=", "give a list of texts that are not empty"),
    "top_p": ("--top_p=0", "top_p is 0.0: it must lie above 0"),
    "compare": ("--compare --medusa=none", "--compare needs Medusa heads"),
    "stream": ("--stream --batch_size=2", "leave out --batch_size"),
    "other call": ("--output={files}/b.jsonl", "b.jsonl.part is of a call with other model,"),
    "no call": ("--output={files}/c.jsonl", "c.jsonl.part holds no rows of an interrupted"),
    "output folder": ("--output={files}/none/a.jsonl", "No such file or directory"),
    "output is a folder": ("--output={files}", "not a regular file"),
    "same file": (
        "--prompt_file={files}/chat.jsonl --output={files}/chat.jsonl",
        "--prompt_file and --output name the same file",
    ),
    "picture": ("--tree_picture={files}/a.csv --output={files}/a.csv", "name the same file"),
    "picture of no tree": ("--tree_picture={files}/a.svg --tree=dynamic:8", "leave out dynamic:N"),
    "cache": ("--compilation_cache={files}/a.csv", "cannot write compiled programs"),
}
# Likewise, alone.
BARE = {
    "nothing asked": ("--output=never.jsonl", "nothing to answer: give --prompt"),
    "logprobs": ("--prompt=Hi --logprobs", "--logprobs only works with --output"),
    "overwrite": ("--prompt=Hi --overwrite", "--overwrite only works with --output"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory, model_copy, heads):
    files = tmp_path_factory.mktemp("files")
    (files / "tree.json").write_text("[[0],\n[0, 0]")
    (files / "parent.json").write_text("[[0, 1]]")
    (files / "row.jsonl").write_text('{"prompt": "a"}\n{"prompt": b}\n')
    (files / "keys.jsonl").write_text('{"prompt": "a", "messages": [], "id": 3}\n')
    (files / "key.jsonl").write_text('{"prompt": "a"}\n\n{"text": "b"}\n')
    (files / "a.csv").write_text("a")
    other = {"unfinished call": {"model": "another"}}
    (files / "b.jsonl.part").write_text(json.dumps(other) + "\n")
    (files / "c.jsonl.part").write_text('{"prompt": "a"}\n')
    (files / "long.txt").write_text("word " * 600)
    (files / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}')
    made = {"files": files, "no_config": model_copy(), "broken_config": model_copy()}
    made |= {"gpt2": model_copy(architectures=["GPT2LMHeadModel"], model_type="gpt2")}
    made |= {"six_layers": model_copy(num_hidden_layers=6), "truncated": model_copy()}
    made |= {"narrow": model_copy(intermediate_size=100)}
    (made["no_config"] / "config.json").unlink()
    (made["broken_config"] / "config.json").write_text("{")
    weights = made["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return (
        made
        | {"wide_heads": _heads(files / "wide", 128, 512)}
        | {"other_heads": _heads(files / "other", 64, 256)}
    )


def _heads(folder, hidden_size, vocab_size):
    config = MedusaConfig(num_heads=1, hidden_size=hidden_size, vocab_size=vocab_size)
    params = init_heads(config, jnp.zeros((vocab_size, hidden_size)), jnp.float32)
    settings = {"format": "C", "base_model": "-", "vocab_size": vocab_size}
    save_heads(folder, config, jax.device_get(params), **settings)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def results(cli, stories260k, heads, paths, out):
    commands = []
    for text, _ in CASES.values():
        argv = [f"--model={stories260k}", f"--medusa={heads}", f"--output={out}/a.jsonl"]
        argv += [part.format(**paths) for part in text.split()]
        commands.append(argv if "--prompt" in text else [*argv, "--prompt=Hi"])
    commands += [text.split() for text, _ in BARE.values()]
    return dict(zip(CASES | BARE, cli.many(commands), strict=True))


@pytest.mark.parametrize("name", CASES | BARE)
def test_a_mistake_ends_in_one_line(results, name):
    result = results[name]
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert (CASES | BARE)[name][1] in result.err
    assert (result.code, result.out) == (2, "")


def test_a_mistake_leaves_no_file_behind(results, out, paths):
    assert list(out.iterdir()) == []
    assert not [file for file in paths["files"].iterdir() if file.name.startswith(".")]


def test_the_real_process_exits_with_2_and_one_line(cli):
    result = cli("--prompt=Hi", "--model=/none/model")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("error: ")
    assert "does not exist" in result.err


def many_prompts(cli, stories260k, out, *argv):
    """A command that takes minutes, up to its first line of text."""
    rows = "".join(f"{json.dumps({'prompt': f'Once {n} times'})}\n" for n in range(5000))
    (out / "many.jsonl").write_text(rows)
    flags = (f"--model={stories260k}", "--medusa=none", "--max_new_tokens=100")
    process = cli.start(*flags, f"--prompt_file={out}/many.jsonl", *argv)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


@pytest.mark.usefixtures("heeds_ctrl_c")  # and so do its children
def test_ctrl_c_ends_without_traceback_and_says_how_to_resume(cli, stories260k, tmp_path):
    process = many_prompts(cli, stories260k, tmp_path, "--stream", f"--output={tmp_path}/a.jsonl")
    while not (tmp_path / "a.jsonl.part").exists():  # until the first row is kept
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 130
    kept = len((tmp_path / "a.jsonl.part").read_text().splitlines()) - 1
    assert err.splitlines()[-2:] == [
        f"{kept} of 5000 answers are kept in {tmp_path}/a.jsonl.part: rerun the same command to "
        "resume",
        "interrupted",
    ]
    assert "Traceback" not in err
    assert {file.name for file in tmp_path.iterdir()} == {"many.jsonl", "a.jsonl.part"}


def test_a_closed_pipe_ends_without_traceback(cli, stories260k, tmp_path):
    process = many_prompts(cli, stories260k, tmp_path)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=900)
    assert process.returncode == 141
    assert "Error" not in err
    assert "Traceback" not in err
