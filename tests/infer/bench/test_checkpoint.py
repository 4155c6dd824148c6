from infer.bench.checkpoint import _different
from infer.bench.contenders import Answer


def test_a_prompt_differs_when_any_round_does():
    def rounds(*rows):
        return [[Answer(token_ids, 1, 1, 1.0, 1.0) for token_ids in row] for row in rows]

    reference = rounds([[1, 2], [3]], [[1, 2], [3]])
    assert _different(reference, reference) == []
    assert _different(rounds([[1, 2], [3]], [[1, 2], [3, 4]]), reference) == [1]
