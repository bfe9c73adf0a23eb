"""A task is one file: what `kerasllm train` can be told of each, and that a new one needs nothing else."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

import kerasllm
from kerasllm import callbacks
from kerasllm.cli import main
from kerasllm.cli.arguments import parse
from kerasllm.cli.train import merged_settings
from kerasllm.losses import TokenCrossentropy
from kerasllm.models.language_model import LanguageModel
from kerasllm.settings import TrainSettings, read_yaml
from kerasllm.tasks import TASKS, task_of
from kerasllm.tasks.text import TextTask

WORDS = "the cat saw a dog and a tree . the dog slept near a cat and the tree saw it ."
SMALL = ["--num-layers", "2", "--d-model", "16", "--num-heads", "2", "--max-length", "16"]
SMALL += ["--tokenizer", "char", "--batch-size", "4", "--steps", "4", "--seed", "3"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A table of 60 different documents, one of which comes twice and one of which is no text."""
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.permutation(WORDS.split())) for _ in range(60)]
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    lines = [
        json.dumps({"body": text}) + "\n" for text in ("caf\u00c3\u00a9 " * 9, *documents, documents[3], "-- * --")
    ]
    path.write_text("".join(lines))
    return path


def settings_of(*arguments, data="text.txt", out="new"):
    return merged_settings(parse(["train", "--data", str(data), "--out", str(out), *arguments]))


@pytest.mark.soak
def test_a_run_is_told_all_that_python_can_do_and_goes_on_with_it(corpus, tmp_path, monkeypatch, capsys):
    begun, fitted = [], []
    compile_model = kerasllm.models.CausalLM.compile

    def compiled(model, optimizer, loss, **options):
        fitted.append((model, loss, options))
        compile_model(model, optimizer, loss, **options)

    def copy_in_third(*_, **__):
        begun.append(None)
        if len(begun) == 3:  # when the first checkpoint must be there
            shutil.copytree(tmp_path / "run", tmp_path / "part")

    monkeypatch.setattr(kerasllm.models.CausalLM, "compile", compiled)
    data = ["--data", str(corpus), "--field", "body", "--out", str(tmp_path / "run")]
    arguments = ["train", *data, *SMALL, "--clean", "--deduplicate", "--packed", "--remat", "block"]
    arguments += ["--micro-batches", "2", "--loss-chunk", "24", "--dropout", "0.1"]
    arguments += ["--set", "model.attention_window=[8, null]", "--set", "model.norm_epsilon=1e-6"]
    arguments += ["--set", "model.vocab_size=64"]
    with monkeypatch.context() as copying:
        copying.setattr(callbacks.StopAfter, "on_train_batch_begin", copy_in_third)
        assert main([*arguments, "--save-every", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "clean: 62 of 63 documents kept" in printed and "deduplicate: 61 of 62 documents kept" in printed
    assert [*(tmp_path / "part" / "checkpoints").glob("step-*")]
    assert main(["train", "--resume", str(tmp_path / "part")]) == 0
    assert "Going on after step" in " ".join(capsys.readouterr().out.split())
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "part")]
    assert weights[0] == weights[1] and len(fitted) == 2
    for model, loss, options in fitted:
        assert (loss.chunk_size, options["micro_batches"], model.config.remat) == (24, 2, "block")
        assert (model.config.attention_window, model.config.norm_epsilon) == ((8, None), 1e-6)
        assert model.config.vocab_size == 64
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["train"]["documents"] + record["data"]["valid"]["documents"] in (61, 62)  # one may be cut
    tokenizer = kerasllm.load(tmp_path / "run")[1]
    tokens = kerasllm.data.TokenFiles(tmp_path / "run" / "tokens" / "train")
    assert "é" in tokenizer.decode(tokens.tokens)  # repaired
    task = TASKS["causal"](TrainSettings(**record["settings"]))
    task.measure()
    training, validation = task.datasets(fitted[0][0].config, tokenizer, tmp_path / "run" / "tokens")
    for dataset in (training(), validation):
        assert {*dataset.element_spec[0]} == {"token_ids", "document_ids"}  # which only packed windows have


def test_settings_have_the_names_of_python_and_the_older_ones_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    older = {
        "task": "causal", "data": ["text.txt"], "valid": [], "out": "new", "layers": 2, "d_model": 16, "heads": 2,
        "dff": None, "context": 16, "dropout": None, "attention_dropout": None, "lr": 0.002, "warmup": 9, "ema": 0.5,
    }  # fmt: skip
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(older))
    new = TrainSettings(
        data="text.txt",
        out="new",
        model={"num_layers": 2, "d_model": 16, "num_heads": 2, "max_length": 16},
        learning_rate=2e-3,
        warmup_steps=9,
        ema_momentum=0.5,
    )
    assert TrainSettings(**read_yaml("old.yaml")) == new
    flags = ["--layers", "2", "--d-model", "16", "--heads", "2", "--context", "16", "--lr", "2e-3", "--warmup", "9"]
    assert settings_of(*flags, "--ema", "0.5") == new
    (tmp_path / "new.yaml").write_text(yaml.safe_dump({"model": {"num_layers": 4, "gated": True}, "packed": True}))
    both = settings_of("--config", "new.yaml", "--layers", "2", "--set", "model.dff=20", "--no-packed", "--clean")
    assert both.model == {"num_layers": 2, "gated": True, "dff": 20}
    assert (both.packed, both.clean) == (False, ("repair", "quality"))
    assert TrainSettings(data="a", out="b", clean=True) == TrainSettings(data="a", out="b", clean=both.clean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "num_layers=2"], "--set takes a field of the model, such as model.num_kv_heads=2, not 'num_layers"),
        (["--set", "model.dff=[1"], "--set model.dff=[1: the value is not YAML"),
        (["--set", "model.n_kv_heads=2"], "n_kv_heads: here it is `num_kv_heads`"),
        (["--set", "model.num_kv_head=2"], "Did you mean `num_kv_heads`?"),
        (["--set", "model.use_bias=None"], "model.use_bias takes true or false, not 'None'"),
        (["--set", "model.num_kv_heads=2.5"], "model.num_kv_heads takes a whole number or null, not 2.5"),
        (["--set", "model.num_layers=0"], "num_layers takes a whole number of at least 1, not 0"),
        (["--layers", "2", "--set", "model.num_layers=3"], "num_layers is given twice"),
        (["--set", "model.num_token_types=2"], "model.num_token_types does nothing for the task causal"),
        (["--task", "masked", "--set", "model.num_encoder_layers=2"], "does nothing for the task masked"),
        (["--task", "translate", "--packed"], "packed does nothing for the task translate"),
        (["--task", "translate", "--clean"], "clean does nothing for the task translate"),
        (["--preset", "t5-laptop"], "The preset t5-laptop has an encoder, and a CausalLM has none"),
        (["--remat", "layer"], "`remat` must be one of"),
        (["--tokenizer", "char", "--set", "model.vocab_size=3"], "model.vocab_size=3 is fewer than the"),
        (["--clean", "repairs"], "rules names 'repairs', which is no rule. Did you mean 'repair'?"),
        (["--clean", "too_short", "quality", "--set", "model.dff=8"], "clean leaves nothing of short.txt"),
        (["--micro-batches", "0"], "micro_batches takes a whole number of at least 1, not 0"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("1234 - * " * 60)
    assert main(["train", "--data", "short.txt", "--out", "new", *arguments]) == 2
    assert message in capsys.readouterr().err.strip()
    assert not (tmp_path / "new").exists()


# A task of a user's own, with a model of its own: each token is to be said again.


@keras.saving.register_keras_serializable("kerasllm")
class EchoLM(LanguageModel):
    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.build((None, None))

    def build(self, _):
        self.token_embedding.build((None, None))

    def call(self, inputs, training=None):
        return self.logits(self.embed(inputs))


class ServedEcho(tf.Module):
    SIGNATURES = ("forward",)

    def __init__(self, model):
        super().__init__()
        self.variables_of_model = [variable.value for variable in model.variables]
        self._call = lambda ids: model(ids, training=False)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, "token_ids")], autograph=False)
    def forward(self, token_ids):
        return {"logits": tf.cast(self._call(token_ids), tf.float32)}


class EchoTask(TextTask):
    name = "echo"
    learns = "says each token again"
    function = "echo"
    scored_by = "echo"
    command = "inspect {}"

    @staticmethod
    def model_class():
        return EchoLM

    @staticmethod
    def make_dataset(*args, packed=False, **options):
        dataset = kerasllm.data.causal_lm_dataset(*args, packed=packed, **options)
        made = dataset.map(lambda ids, labels, weight: (ids, ids, weight))
        made.documents_at = dataset.documents_at
        return made

    def loss(self):
        return TokenCrossentropy(label_smoothing=0.1)

    @staticmethod
    def score_corpus(model, tokenizer, corpus):
        ids = np.array([tokenizer.encode(" ".join(corpus))])
        return {"echoed": float(np.mean(np.argmax(model(ids), axis=-1) == ids))}

    @staticmethod
    def rows(figures):
        yield "tokens said again", f"{figures['echoed']:.2%}"

    @staticmethod
    def served(model, tokenizer, text):
        return ServedEcho(model)


@pytest.mark.soak
def test_a_new_task_trains_evaluates_exports_and_is_known_to_all(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "echo", EchoTask)
    run = str(tmp_path / "run")
    data = ["--data", str(corpus), "--field", "body"]
    assert main(["train", "--task", "echo", *data, *SMALL, "--steps", "20", "--lr", "0.1", "--out", run]) == 0
    printed = capsys.readouterr().out
    assert "tokens said again" in printed and f"kerasllm inspect {run}" in printed
    model, _ = kerasllm.load(run)
    assert type(model) is EchoLM and task_of(model) is EchoTask
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["echoed"] > 0.9
    assert main(["inspect", run]) == 0 and "tokens said again" in capsys.readouterr().out
    assert main(["evaluate", "--model", run, *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["echoed"] > 0.9
    assert main(["export", run, str(tmp_path / "served")]) == 0
    capsys.readouterr()
    assert main(["generate", "--model", run, "--prompt", "the"]) == 2
    assert "`generate` continues texts, got a EchoLM: `echo` is for a EchoLM." in capsys.readouterr().err
