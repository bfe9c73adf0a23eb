"""lm-evaluation-harness with our model and with its own of torch: the same numbers for the same weights."""

import json

import numpy as np
import pytest

import kerasllm
from kerasllm.cli import main
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install kerasllm[harness]")
pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kerasllm.evaluation.harness import HarnessModel

pytestmark = pytest.mark.parity

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. What is it? It is a small test. " * 20
CONTEXTS = ["The quick brown", "What is it? ", "", "The dog sleeps on. " * 12, "It", "It is a small test. " * 40]
ENDINGS = [" fox", " dog sleeps on the fox", "a test", "  It is", " quick"]
TASK = """
task: own_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    start = {"special_tokens": ["<|start|>", "<|end|>"]} if request.param == "llama" else {}
    tokenizer = Tokenizer.train([TEXT], vocab_size=330, progress=False, **start)
    config = TransformerConfig.preset(
        request.param, vocab_size=len(tokenizer), num_layers=2, d_model=32, num_heads=4, dff=48, max_length=96
    )
    model = CausalLM(config)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight + 0.3 * generator.standard_normal(weight.shape))
    kerasllm.huggingface.save(model, tokenizer, folder)
    return str(folder)


def requests(kind, arguments):
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def test_it_gives_the_numbers_of_the_harness_own_model(folder):
    ours, theirs = HarnessModel(folder, batch_size=4), HFLM(folder, dtype="float32", device="cpu", batch_size=4)
    pairs = requests("loglikelihood", [(context, ending) for context in CONTEXTS for ending in ENDINGS])
    scores = [model.loglikelihood(pairs, disable_tqdm=True) for model in (ours, theirs)]
    np.testing.assert_allclose(*(np.array([score for score, _ in found]) for found in scores), atol=1e-3)
    assert [is_greedy for _, is_greedy in scores[0]] == [is_greedy for _, is_greedy in scores[1]]
    texts = requests("loglikelihood_rolling", [(TEXT,), ("It is",), (TEXT[:200],)])
    rolled = [model.loglikelihood_rolling(texts, disable_tqdm=True) for model in (ours, theirs)]
    np.testing.assert_allclose(*rolled, atol=1e-3)
    settings = {"until": ["o", "\n"], "max_gen_toks": 12}
    prompts = requests("generate_until", [(context, settings) for context in CONTEXTS if context])
    written = [model.generate_until(prompts, disable_tqdm=True) for model in (ours, theirs)]
    assert written[0] == written[1] and len(set(written[0])) > 2


def test_tasks_of_ones_own_are_scored(folder, tmp_path, capsys):
    rows = [{"question": "The quick brown", "choices": ENDINGS[:3], "label": i % 3} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "choices.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    assert main(["evaluate", "--model", folder, "--tasks", str(tmp_path), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["own_choices"]["acc"] == pytest.approx(1 / 3)
