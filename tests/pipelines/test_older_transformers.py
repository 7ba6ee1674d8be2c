"""A published question-answering model in transformers 4.57, in a separate environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, pipeline

from mobilebert_hf.data import load_tokenizer

from ..older import install_older

MODEL = Path(__file__).parents[1] / "fixtures" / "question_answering" / "model"
ASK = """
import json, sys, transformers
answers = {"version": transformers.__version__}
for trust in (None, True):
    answerer = transformers.pipeline("question-answering", model=sys.argv[1], trust_remote_code=trust)
    answers[type(answerer).__module__.split(".")[0]] = answerer(question="Where?", context=sys.argv[2], top_k=3)
print(json.dumps(answers))
"""
CONTEXT = "The oldest stone bridge still in use crosses the river Meles. It was built about 850 BC. " * 6


@pytest.mark.slow
def test_stock_and_published_pipeline_give_our_answers(tmp_path):
    environment = install_older(tmp_path / "older")
    vocabulary = AutoTokenizer.from_pretrained(MODEL).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    ours = pipeline("question-answering", model=str(MODEL), tokenizer=load_tokenizer(tmp_path / "vocab.txt"))
    ours.save_pretrained(tmp_path / "published")
    command = [sys.executable, "-c", ASK, str(tmp_path / "published"), CONTEXT]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    answers = json.loads(finished.stdout.splitlines()[-1])
    assert answers.pop("version") == "4.57.6"
    assert set(answers) == {"transformers", "transformers_modules"}
    for package, theirs in answers.items():
        # Stock merges answers with the same text.
        expected = ours(question="Where?", context=CONTEXT, top_k=3, merge_duplicates=package == "transformers")
        for one, other in zip(theirs, expected, strict=True):
            assert one.pop("score") == pytest.approx(other["score"], rel=1e-4)
            assert one == {key: other[key] for key in ("start", "end", "answer")}
