"""One report about a model: what it says, that its page loads nothing, and where its card goes along."""

import json
import re
import sys
import types

import huggingface_hub
import numpy as np
import pytest

import kerasllm
from kerasllm import audits, huggingface, safety
from kerasllm.cli import main
from kerasllm.energy import energy_used
from kerasllm.evaluation import bias
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

HOSTILE = "<script>alert(1)</script> | `x` \n# y"
RECORD = {
    "started": "2026-01-01T00:00:00+00:00",
    "settings": {"task": "causal", "data": ["/home/somebody/secret/a.txt"], "steps": 3, "seed": 0, "out": "x"},
    "versions": {"kerasllm": "0.1.0"},
    "backend": "tensorflow",
    "machine": HOSTILE,
    "data": {"train": {"bytes": 10, "sha256": "f" * 64}, "valid": {"bytes": 5, "sha256": "e" * 64}},
    "results": {
        **{"steps": 3, "trained_tokens": 96, "seconds": 1.5, "tokens_per_second": None, "loss": 1.0},
        **{"perplexity": 2.718, "tokens": 4, "bytes": 5, "bits_per_byte": 1.0, "word_perplexity": 9.0},
        "privacy": {"epsilon": 7.9, "delta": 1e-6, "protects": "a row"},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a record."""
    folder = tmp_path_factory.mktemp("audits") / "my-run"
    tokenizer = Tokenizer.train(["abcdefghijklmnopqrstuvwxyz .SheHJonMary"], kind="char", progress=False)
    config = TransformerConfig.preset("gpt2", vocab_size=tokenizer.vocab_size, **SIZE)
    kerasllm.save(CausalLM(config), tokenizer, folder)
    return folder


SIZE = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 16, "max_length": 64}


def test_a_model_is_audited_and_its_card_goes_along(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = json.loads(json.dumps(RECORD))
    (run / "run.json").write_text(json.dumps(kept))
    (tmp_path / "mine.yaml").write_text(
        "groups: {women: [She], men: [He]}\nsentences: {skill: ['{} won.', '{} lost.']}\n"
    )
    assert main(["audit", str(run), "--templates", "mine.yaml"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "epsilon 7.90" in shown and "skill: women - men: difference" in shown
    assert {path.name for path in (run / "audit").iterdir()} == {"audit.html", "audit.json", "README.md"}

    page = (run / "audit/audit.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page and "@import" not in page
    assert "&lt;script&gt;" in page and "What was not measured" in page and "--prompts FILE" in page
    figures = json.loads((run / "audit/audit.json").read_text())
    assert figures["measures"]["perplexity"] == 2.718 and figures["privacy"]["epsilon"] == 7.9
    model, tokenizer = kerasllm.load(run)
    expected = bias.templates(model, tokenizer, "mine.yaml").to_dict()["categories"]
    assert figures["bias"]["templates"]["categories"] == json.loads(json.dumps(expected))

    text = (run / "audit/README.md").read_text()
    card = huggingface_hub.ModelCard(text)
    assert card.data.pipeline_tag == "text-generation" and card.data.library_name == "transformers"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("perplexity", 2.718)
    assert "somebody" not in text and "| a.txt |" in text, "whose folders they are is nobody's business"
    assert r"| machine | \<script\>alert(1)\</script\> \| \`x\` \# y |" in text, "Markdown takes it as text"

    assert main(["convert", str(run), "hub"]) == 0
    assert (tmp_path / "hub/README.md").read_text() == text
    huggingface.save(model, tokenizer, "again")
    assert (tmp_path / "again/README.md").read_text() == text
    weight = model.trainable_weights[0]
    weight.assign(weight + 1)
    huggingface.save(model, tokenizer, "trained")
    assert not (tmp_path / "trained/README.md").exists(), "what was measured is not true of other weights"
    (tmp_path / "mine.md").write_text("# Mine")
    huggingface.save(model, tokenizer, "own", card="mine.md")
    assert (tmp_path / "own/README.md").read_text() == "# Mine"
    assert main(["audit", str(run)]) == 2 and "exists, and is left as it is" in capsys.readouterr().err


def test_parts_say_what_their_scores_say():
    memory = safety.Memory(
        safety.memory.Extraction((1, 4), (50, 10), (0, 9), (2, 10), 32, 32),
        [safety.memory.told_apart("loss", np.array([1.0, 2.0]), np.array([0.0, 0.5]))],
        [(16, 9.5)],
        {"email": (3, 1), "phone": (0, 0)},
    )
    part = audits.of_memory(memory)
    rows = dict(part.rows)
    assert rows["passages repeated 4 times or more, continued word for word"] == "9 of 10"
    assert (
        rows["of all of these, nearly word for word"] == "12 of 60" and "personal data written there: phone" not in rows
    )
    assert rows["personal data written there: email"] == "3, as the text has it 1"
    assert rows["exposure of a canary repeated 16 times (1.4 by chance)"] == "9.5 bits"
    assert part.pictures[0][:4] == b"\x89PNG" and part.limits == list(safety.memory.LIMITS)
    page = audits.page(HOSTILE, [part])
    assert "data:image/png;base64," in page and "<script" not in page


def test_energy_is_measured_where_codecarbon_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with energy_used() as used:
        pass
    assert used == {}, "without it there is nothing to say"

    class OfflineEmissionsTracker:
        final_emissions_data = types.SimpleNamespace(energy_consumed=0.25, duration=3600.0)

        def __init__(self, country_iso_code, save_to_file, log_level, allow_multiple_runs):
            assert save_to_file is False

        def start(self):
            began.append(self)

        def stop(self):
            assert began.pop() is self

    module = types.ModuleType("codecarbon")
    module.OfflineEmissionsTracker = OfflineEmissionsTracker
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.3.2")
    began = []
    with energy_used() as used:
        assert not used
    assert used == {"kwh": 0.25, "seconds": 3600.0, "by": "codecarbon 3.3.2"}
    record = {**RECORD, "results": {**RECORD["results"], "energy": used}}
    rows = dict(audits.of_record(record)[0].rows)
    assert rows["energy in 3,600 s, estimated by codecarbon 3.3.2"] == "0.25 kWh"
    monkeypatch.setattr(OfflineEmissionsTracker, "start", lambda self: 1 / 0)
    with pytest.warns(UserWarning, match="codecarbon fails: division by zero"), energy_used() as used:
        pass
