"""What of the benchmarks can be held without running them for minutes."""

import pytest

from kerasllm.benchmark import compare, runner
from kerasllm.benchmark.corpus import synthetic_documents
from kerasllm.benchmark.runner import Worker


def test_synthetic_text_has_the_size_asked_for_and_is_always_the_same():
    documents = list(synthetic_documents(100_000))
    assert sum(len(document.encode()) for document in documents) == 100_000
    assert documents == list(synthetic_documents(100_000)) and len(set(documents)) == len(documents) > 10
    words = " ".join(documents).split()
    assert max(map(words.count, set(words))) > len(words) / 20  # as in real text, few words make up much of it


def test_programs_take_turns_and_are_compared_by_their_medians(monkeypatch):
    order = []

    class FakeWorker:
        def __init__(self, program, settings):
            self.program, self.speeds = program, iter([50.0] * 3 if "kerasllm" in program else [30.0, 10.0, 20.0])
            assert settings["steps"] == 2

        def measure(self):
            order.append(self.program)
            return next(self.speeds)

        def close(self):
            order.append("closed")

    monkeypatch.setattr(runner, "Worker", FakeWorker)
    results = compare("generate", rounds=3, settings={"steps": 2})
    programs = ["generate_kerasllm", "generate_served", "generate_keras_hub"]
    assert order == [*programs, *programs[::-1], *programs, *["closed"] * 3] * 2
    assert [(row["tokens_per_second"], row["ratio"]) for row in results[:2]] == [(50.0, 1.0), (20.0, 2.5)]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="no task 'serve'; choose one of train, generate"):
        compare("serve")
    with pytest.raises(ValueError, match="rounds=0"):
        compare("train", rounds=0)
    with pytest.raises(RuntimeError, match=r"no_program.* ended with status 1"):
        Worker("no_program", {})
