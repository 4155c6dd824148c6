import json

import pytest

from infer.bench.prompts import QUESTIONS, read_prompts
from medusa_jax import UserError


def test_without_a_file_the_built_in_questions_are_asked():
    assert read_prompts(None) == list(QUESTIONS)
    assert len(set(QUESTIONS)) == 8


def test_the_first_turns_of_mt_bench_rows_are_asked(tmp_path):
    path = tmp_path / "mt.jsonl"
    rows = [{"question_id": 81, "turns": ["A?", "B?"]}, {"turns": ["C?"]}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_prompts(str(path)) == ["A?", "C?"]


def test_other_files_are_read_as_the_generator_reads_them(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "A?"}\n')
    assert read_prompts(str(path)) == ["A?"]
    with pytest.raises(UserError, match="cannot read the prompt file"):
        read_prompts(str(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize("turns", [[], "A?", [1], None])
def test_malformed_turns_are_refused_with_their_row(tmp_path, turns):
    path = tmp_path / "mt.jsonl"
    path.write_text(json.dumps({"turns": ["A?"]}) + "\n" + json.dumps({"turns": turns}) + "\n")
    with pytest.raises(UserError, match=r"mt\.jsonl, row 2: write .turns. as a list"):
        read_prompts(str(path))
