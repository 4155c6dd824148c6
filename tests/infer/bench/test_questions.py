from infer.bench.questions import QUESTIONS


def test_the_built_in_questions_are_eight_different_ones():
    assert len(set(QUESTIONS)) == 8
