from infer.bench.questions import QUESTIONS, questions


def test_the_built_in_questions_are_eight_different_ones():
    assert len(set(questions(None))) == len(QUESTIONS) == 8


def test_a_file_takes_their_place(tmp_path):
    (tmp_path / "a.txt").write_text("Who?")
    assert questions(str(tmp_path / "a.txt")) == ["Who?"]
