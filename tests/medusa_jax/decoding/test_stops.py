"""Stop texts: on pieces of text whose tokens are known, and through the API."""

import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding.stops import TextSoFar


@pytest.fixture(scope="module")
def lm(short_lm):
    return short_lm


def cut(lm, token_ids, stops):
    """The definition: the shortest run of tokens whose text has a stop, and the cut in it."""
    for count in range(1, len(token_ids) + 1):
        text = lm.tokenizer.decode(token_ids[:count], skip_special_tokens=True)
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            end = min(found)
            kept = [
                n
                for n in range(count)
                if len(lm.tokenizer.decode(token_ids[: n + 1], skip_special_tokens=True)) <= end
            ]
            return text[:end], token_ids[: len(kept)]
    return None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 3])
def test_an_answer_ends_before_the_first_stop_text_and_its_first_token(lm, seed, width):
    rng = np.random.default_rng(seed)
    (free,) = medusa_jax.generate(lm, ["Once upon a time"], max_new_tokens=48)
    starts = rng.integers(5, len(free.text) - 12, 2)
    stops = [free.text[at : at + size] for at, size in zip(starts, (7, 3), strict=True)]
    text, token_ids = cut(lm, free.token_ids, stops)
    so_far, pieces, handed_out = TextSoFar(lm.tokenizer, stops), [], []
    for at in range(0, 48, width):
        so_far.add(free.token_ids[at : at + width])
        piece, tokens = so_far.take(so_far.text if so_far.is_stopped else None)
        pieces.append(piece)
        handed_out += tokens
        if so_far.is_stopped:
            break
    assert (so_far.text, so_far.token_ids) == (text, token_ids)
    # What was shown is never taken back.
    assert ("".join(pieces), handed_out) == (text, token_ids)
    for batch_size in (1, 2):
        prompts = ["The dog", "Once upon a time", "Lily"]
        each = [{}, {"stop": stops}, {}]
        options = {"batch_size": batch_size, "max_new_tokens": 48}
        results = medusa_jax.generate(lm, prompts, each=each, **options)
        assert (results[1].text, results[1].token_ids) == (text, token_ids)
        assert results[1].finish_reason == "stop"
        assert results[0].num_new_tokens == results[2].num_new_tokens == 48
        steps = {event.result.num_steps for event in streamed(lm, prompts, each, options)}
        assert steps == {result.num_steps for result in results}


@pytest.fixture(scope="module")
def bytewise(lm):
    """Ids of a text whose emoji and letters of other scripts are single bytes."""
    ids = lm.tokenizer("a 😀b中文. é", add_special_tokens=False)["input_ids"]
    words = lm.tokenizer.convert_ids_to_tokens(ids)
    assert sum(word.startswith("<0x") for word in words) >= 10
    return ids


@pytest.mark.parametrize("stop", ["😀", "中", "文", "b", ".", " é", "b中"])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_no_bytes_of_a_stop_text_are_left(lm, bytewise, stop, width):
    whole = lm.tokenizer.decode(bytewise)
    so_far, handed_out = TextSoFar(lm.tokenizer, [stop]), []
    for at in range(0, len(bytewise), width):
        so_far.add(bytewise[at : at + width])
        handed_out += so_far.take(so_far.text if so_far.is_stopped else None)[1]
    assert so_far.is_stopped
    assert so_far.text == whole[: whole.index(stop)]
    assert lm.tokenizer.decode(so_far.token_ids) == so_far.text
    assert handed_out == so_far.token_ids == bytewise[: len(so_far.token_ids)]


def test_a_token_without_text_before_a_stop_text_stays(lm, bytewise):
    eos = lm.tokenizer.eos_token_id
    at = lm.tokenizer.convert_ids_to_tokens(bytewise).index("b")
    so_far = TextSoFar(lm.tokenizer, ["b"])
    so_far.add([*bytewise[:at], eos, *bytewise[at:]])
    assert so_far.token_ids == [*bytewise[:at], eos]


def test_without_stop_texts_tokens_wait_for_nothing(lm, bytewise):
    so_far = TextSoFar(lm.tokenizer)
    so_far.add(bytewise[:4])
    assert so_far.take()[1] == bytewise[:4]


def streamed(lm, prompts, each, options):
    events = list(medusa_jax.stream(lm, prompts, each=each, **options))
    for index in range(len(prompts)):
        own = [event for event in events if event.index == index]
        assert "".join(event.text for event in own) == own[-1].result.text
        assert [t for event in own for t in event.token_ids] == own[-1].result.token_ids
    return [event for event in events if event.result is not None]


def test_bytes_that_break_text_before_them_are_shown(lm):
    """A line break is a byte for this tokenizer, and changes with a broken character after it."""
    tokenizer = lm.tokenizer
    broken = tokenizer.convert_tokens_to_ids(["<0x0A>", "<0xF0>"])
    so_far = TextSoFar(tokenizer)
    so_far.add([*broken, *tokenizer("a b", add_special_tokens=False)["input_ids"]])
    assert so_far.text == "\n\ufffd\ufffd a b"


def test_no_order_of_bytes_and_words_ends_a_stream(lm):
    rng = np.random.default_rng(0)
    for _ in range(50):
        is_byte = rng.random(30) < 0.4
        ids = np.where(is_byte, rng.integers(3, 259, 30), rng.integers(259, 512, 30)).tolist()
        so_far = TextSoFar(lm.tokenizer)
        so_far.add(ids)
        assert so_far.token_ids == ids
        words = lm.tokenizer.decode([i for i in ids if i >= 259], skip_special_tokens=True)
        shown = iter(so_far.text)
        assert all(letter in shown for letter in words if letter != " ")  # in this order
