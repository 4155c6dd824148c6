"""Sizes that programs are compiled for: few, so that few are compiled."""

# A prompt, or a chunk of one, is padded to at least this many tokens.
_MIN_PROMPT = 32
_MIN_CAPACITY = 256
_VECTOR = 16  # float32 numbers


def bucket(size: int, smallest: int) -> int:
    """Next size of 2^n or 3 * 2^(n-1): a quarter of padding at most."""
    power = 1 << (size - 1).bit_length()
    return max(smallest, power * 3 // 4 if size <= power * 3 // 4 else power)


def prompt_width(longest: int) -> int:
    """What prompts of up to `longest` tokens are padded to."""
    return bucket(longest, _MIN_PROMPT)


def cache_slots(longest: int, depth: int = 0) -> int:
    """Slots for rows of up to `longest` tokens, and for a draft of this depth after them.

    A multiple of 16, so that the keys of every channel begin where a CPU's vector does: a few slots
    more made a step of many rows slower (docs/design/engine.md).
    """
    beside = bucket(longest, _MIN_CAPACITY) + -(-depth // _VECTOR) * _VECTOR
    return min(bucket(longest + depth, _MIN_CAPACITY), beside)


def batch_shape(longest_prompt: int, longest: int, depth: int = 0) -> tuple[int, int]:
    """Width of the prompts, and slots, of a batch whose cache never grows.

    Args:
      longest_prompt: tokens of the longest prompt.
      longest: tokens of the longest row, prompt and budget together.
      depth: of the draft after them.
    """
    width = prompt_width(longest_prompt)
    return width, cache_slots(max(width, longest), depth)


def group_size(count: int) -> int:
    """How many of `count` rows are run at once: a power of two."""
    return 1 << (count.bit_length() - 1)
