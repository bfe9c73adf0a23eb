"""Text in two parts that is read once: the same parts as by counting first, in bounded memory."""

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reads import counted_reads

from kerasllm import data
from kerasllm.data import splitting
from kerasllm.data.splitting import Spool, split_once
from kerasllm.models import TransformerConfig
from kerasllm.settings import TrainSettings
from kerasllm.tasks.causal import CausalTask
from kerasllm.tokenizers import Tokenizer


@given(
    st.lists(st.text(st.sampled_from("aé😀\ud800"), min_size=1, max_size=9), min_size=1, max_size=40),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
)
def test_parts_are_those_of_counting_first(documents, validation):
    text = "".join(documents)
    cut = int(len(text) * (1 - validation))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "_CHARACTERS_AT_ONCE", 5)
        first, second = split_once(iter(documents), validation)
        if not cut:
            with pytest.raises(ValueError, match="too few to keep"):
                list(first)
            return
        parts = list(first), list(second), list(second)
    assert parts[1] == parts[2] and "".join(parts[0]) == text[:cut]
    together = [*parts[0], *parts[1]]
    if (place := len(parts[0])) and together != documents:  # the document at the cut is cut in two
        together[place - 1 : place + 1] = ["".join(together[place - 1 : place + 1])]
    assert together == documents


def test_what_waits_is_a_tenth_and_mostly_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, "_CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read = 0

    def documents():
        nonlocal read
        for read in range(1, 2001):
            yield f"{read:010}"

    first, second = split_once(documents())
    for given_out, _ in enumerate(first, start=1):
        assert read - given_out <= read / 10 + 1
        assert len(second._front) + len(second._back) <= 202
    assert given_out == 1800 and list(second) == [f"{number:010}" for number in range(1801, 2001)]
    assert len(list(tmp_path.glob("*/*.json"))) == len(second._files) > 0
    del first, second
    assert not list(tmp_path.iterdir())


def test_validation_text_of_its_own_is_read_once_and_scored_from_what_was_kept(tmp_path):
    for name, text in {"train.txt": "a tale of two cities\n" * 9, "valid.txt": "it was the best of times"}.items():
        (tmp_path / name).write_text(text)
    sources = {"data": tmp_path / "train.txt", "valid": tmp_path / "valid.txt"}
    settings = TrainSettings(
        **{part: str(path) for part, path in sources.items()}, out=str(tmp_path / "run"), batch_size=1
    )
    task = CausalTask(settings)
    config = TransformerConfig(300, num_layers=1, d_model=8, num_heads=2, dff=8, max_length=8)
    with counted_reads(*sources.values()) as reads:
        tokenizer = Tokenizer.train(task.texts(), kind="char", progress=False)
        task.datasets(config, tokenizer, tmp_path / "tokens")
        assert list(task._held_out) == ["it was the best of times"]
    assert reads == {"train.txt": 2, "valid.txt": 1}
    assert task.measure()["train"]["documents"] == 1 and task.measure()["valid"]["bytes"] == 24
    again = CausalTask(settings)
    assert again.measure() == task.measure()  # as a run does that goes on
    assert data.TokenFiles(tmp_path / "tokens" / "valid").num_documents == 1


def test_a_spool_hands_out_what_was_put_in(monkeypatch):
    monkeypatch.setattr(splitting, "_CHARACTERS_AT_ONCE", 4)
    spool = Spool("abcdefghij")
    assert (spool.take(), spool.first()) == ("a", "b")
    spool.put_back("A")
    spool.put("k")
    assert "".join(spool) == "".join(spool) == "Abcdefghijk"
    assert "".join(spool.take() for _ in range(11)) == "Abcdefghijk"
