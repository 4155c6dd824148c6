"""What the benchmark of random models says of the cache that it has timed."""

from infer.bench import steps


def test_a_prompt_takes_a_whole_bucket():
    assert [steps._slots(context) for context in (512, 1100)] == [512 + 512, 1536 + 512]
