"""Choosing of models: the best is found at a share of the cost, limits hold, and cards are read as they are written."""

import json

import numpy as np
import pytest

import kerasllm
from kerasllm.cli import main
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.selection import choose, choosing
from kerasllm.selection.cards import Known, known_of, read_card
from kerasllm.selection.measures import Measure, items_of
from kerasllm.tokenizers import Tokenizer

LOSSES = {f"model-{number}": 1.0 + 0.03 * number for number in range(8)}
SAMPLE = 640


class FakeModel:
    """A model whose name says how good it is."""

    def __init__(self, name):
        self.name = name

    def count_params(self):
        return 1000 * (9 - int(self.name[-1]))


class FakeMeasure(Measure):
    name, answer, lower_is_better = "loss", "an answer", True
    cost = 0

    def __init__(self):
        super().__init__()
        self._figures = []

    @classmethod
    def check(cls, model):
        pass

    def add(self, model, tokenizer, items):
        FakeMeasure.cost += len(items)
        self._figures += [LOSSES[model.name] * (1 + 0.1 * np.sin(item)) for item in items]
        return float(np.mean(self._figures))

    @classmethod
    def seconds(cls, model, tokenizer, items):
        return 0.01 * (9 - int(model.name[-1])), None


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setitem(choosing.MEASURES, "fake", FakeMeasure)
    monkeypatch.setattr(choosing, "items_of", lambda task, data, columns: list(range(SAMPLE)))
    monkeypatch.setattr(choosing.kerasllm, "load", lambda name: (FakeModel(name), None))
    monkeypatch.setattr(choosing, "known_of", lambda name: Known(FakeModel(name).count_params()))
    FakeMeasure.cost = 0


def test_the_best_is_found_at_a_share_of_the_cost(fakes):
    names = list(LOSSES)[::-1]
    found = choose(names, "fake", "sample")
    assert found.pick.name == "model-0" and found.pick.seconds == pytest.approx(0.09)
    assert FakeMeasure.cost <= len(names) * SAMPLE / 8
    assert [one.items for one in found.candidates] == [160, 160, 80, 80, 40, 40, 40, 40]
    assert {one.name for one in found.frontier()} == set(names)  # each is smaller than those that are better
    assert "lowest loss: " in found.why and json.dumps(found.to_dict())


def test_limits_hold(fakes):
    found = choose(list(LOSSES), "fake", "sample", memory=4 * 6500, latency=0.055)
    dropped = {one.name: one.left_out for one in found.candidates}
    assert "memory" in dropped["model-2"] and dropped["model-3"] == "an answer takes 60 ms"
    assert found.pick.name == "model-4" and "of those that keep within" in found.why
    with pytest.raises(ValueError, match=r"No candidate can be taken. model-0: it does not fit"):
        choose(["model-0"], "fake", "sample", memory=10)


def test_what_cannot_be_chosen_from_is_refused(tmp_path, fakes):
    with pytest.raises(ValueError, match="`task` is one of generate"):
        choose(["a"], "sing", "sample")
    with pytest.raises(ValueError, match="different models"):
        choose(["a", "a"], "generate", "sample")
    with pytest.raises(FileNotFoundError, match="no sample at"):
        items_of("generate", [str(tmp_path / "none.txt")])
    with pytest.raises(FileNotFoundError, match=r"no folder, no .gguf file"):
        known_of("nothing-of-the-kind")


def test_cards_are_read(tmp_path):
    card = tmp_path / "README.md"
    assert read_card(card) == ("", ())
    card.write_text("---\nlicense: apache-2.0\nlanguage:\n- en\n- no\n---\n# Model\n---\nlicense: mine\n")
    assert read_card(card) == ("apache-2.0", ("en", "no"))
    for text in ("# no lines at the top\n", "---\n- a\n---\n", "---\na: [\n---\n", "---\nlanguage: zh\n---"):
        card.write_text(text)
        assert read_card(card) == ("", ("zh",) if "zh" in text else ())
    assert known_of("gpt2").is_preset and known_of("gpt2").parameters == 124_439_808


def test_text_is_measured_in_pieces(tmp_path):
    text = "".join(f"line {number} of a text that is not short\n" for number in range(500))
    path = tmp_path / "text.txt"
    path.write_text(text)
    items = items_of("generate", [str(path)])
    assert sorted("".join(sorted(items))) == sorted(text) and max(map(len, items)) < 2100 and len(items) > 8


@pytest.mark.soak
def test_the_command_picks_the_model_that_knows_the_text(tmp_path, capsys):
    text = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 300
    (tmp_path / "sample.txt").write_text(text.replace(". ", ".\n"))
    tokenizer = Tokenizer.train([text], kind="char")
    for name, steps in (("untrained", 0), ("trained", 60)):
        config = TransformerConfig(tokenizer.vocab_size, 1, 32, 2, 64, max_length=64)
        model = CausalLM(config)
        model.compile()
        if steps:
            data = kerasllm.data.causal_lm_dataset([text], tokenizer, seq_len=64, batch_size=4, seed=0, epochs=4)
            model.fit(data.take(steps), verbose=0)
        kerasllm.save(model, tokenizer, tmp_path / name)
    (tmp_path / "trained" / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    arguments = ["choose", "--task", "generate", "--data", str(tmp_path / "sample.txt"), "--json"]
    folders = [str(tmp_path / name) for name in ("untrained", "trained")]
    assert main([*arguments, "--candidates", *folders, "gpt2", "--plot", str(tmp_path / "plot.png")]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["pick"]["name"] == folders[1] and found["pick"]["licence"] == "mit"
    assert found["pick"]["seconds"] > 0 and found["pick"]["first_seconds"] > 0
    assert {one["left_out"] for one in found["candidates"]} >= {"", "a preset has no weights"}
    assert (tmp_path / "plot.png").stat().st_size > 5000
