"""Run folders of tuned models: what was learned, and where the base is; the two come together, or not at all."""

import json
import shutil

import numpy as np
import pytest
from test_adapters import GPT2, LLAMA, far, trained
from test_dense import IDS

import kerasllm
from kerasllm import adapters
from kerasllm.callbacks import Checkpoint
from kerasllm.cli import main
from kerasllm.models import CausalLM, SequenceClassifier, TextEmbedder


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train(["abcdefghijklmnopqrstuvwxyz"], kind="char", progress=False)


@pytest.fixture(scope="module")
def bases(tokenizer, tmp_path_factory):
    """A model as a run folder and in Hugging Face's format."""
    folder, model = tmp_path_factory.mktemp("bases"), far(CausalLM(LLAMA))
    kerasllm.save(model, tokenizer, folder / "run")
    kerasllm.huggingface.save(model, tokenizer, folder / "hf")
    return folder


def tuned(base, tmp_path, seed=3, **options):
    """A base, moved into a folder of its own, and a model with adapters that are far from it."""
    shutil.copytree(base, tmp_path / "base")
    model, tokenizer = kerasllm.load(tmp_path / "base")
    adapters.add(model, 2, 6, **options)
    return far(model, seed), tokenizer


def stored(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        return set(file.keys())


@pytest.mark.parametrize("kind", ["run", "hf"])
def test_a_tuned_model_is_kept_without_its_base(kind, bases, tmp_path):
    model, tokenizer = tuned(bases / kind, tmp_path, layers=["query", "block_1/*"], train_also="final_norm")
    expected = np.array(model(IDS))
    kerasllm.save(model, tokenizer, tmp_path / "tuned")
    names = stored(tmp_path / "tuned")
    assert all("/adapters/default/" in name or "final_norm" in name for name in names) and len(names) == 2 + 8 + 6 + 1
    loaded, again = kerasllm.load(tmp_path / "tuned")
    np.testing.assert_array_equal(loaded(IDS), expected)
    assert trained(loaded) == trained(model) and again.fingerprint() == tokenizer.fingerprint()
    with adapters.disabled(loaded):
        assert np.abs(np.array(loaded(IDS)) - expected).max() > 0.1

    kerasllm.save(far(loaded, 4), again, tmp_path / "more")  # of the same base
    description = json.loads((tmp_path / "more" / "config.json").read_text())["base"]
    assert (description["path"], description["relative"]) == (str(tmp_path / "base"), "../base")
    (tmp_path / "elsewhere").mkdir()
    for name in ("base", "more"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "elsewhere" / "more")[0](IDS), loaded(IDS))


def test_merging_writes_an_ordinary_run_folder(bases, tmp_path, capsys):
    model, tokenizer = tuned(bases / "hf", tmp_path, kind="dora")
    kerasllm.save(model, tokenizer, tmp_path / "tuned")
    assert main(["merge", str(tmp_path / "tuned"), str(tmp_path / "whole")]) == 0
    assert "without adapters" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(tmp_path / "base")
    merged, _ = kerasllm.load(tmp_path / "whole")
    np.testing.assert_allclose(merged(IDS), model(IDS), rtol=1e-4, atol=1e-4)
    adapters.merge(model)
    adapters.add(model, 2)  # over other kernels than those of the base
    kerasllm.save(model, tokenizer, tmp_path / "again")
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "again")[0](IDS), model(IDS))
    for source, message in (("whole", "has no adapter to merge"), ("nowhere", "There is no run folder")):
        assert main(["merge", str(tmp_path / source), str(tmp_path / "new")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_what_else_was_learned_is_kept_too(bases, tmp_path):
    shutil.copytree(bases / "run", tmp_path / "base")
    model, tokenizer = kerasllm.load(tmp_path / "base")
    model.transformer.blocks[0].attention.output_projection.kernel.assign_add(np.ones((16, 16), "float32"))
    model = kerasllm.models.with_new_tokens(model, range(40, 43))
    adapters.add(model, 2)
    kerasllm.save(model, tokenizer, tmp_path / "tuned")
    names = {name for name in stored(tmp_path / "tuned") if "adapters" not in name}
    assert names == {"transformer/block_0/attention/output/kernel"}
    loaded, _ = kerasllm.load(tmp_path / "tuned")
    assert loaded.config.vocab_size == 43
    np.testing.assert_array_equal(loaded(IDS), model(IDS))
    half, _ = kerasllm.load(tmp_path / "tuned", dtype="bfloat16")
    assert half.compute_dtype == "bfloat16" and {w.dtype for w in half.weights if "lora" in w.path} == {"float32"}
    kerasllm.save(half, tokenizer, tmp_path / "half")
    assert stored(tmp_path / "half") == stored(tmp_path / "tuned")
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "half")[0](IDS), half(IDS))

    adapters.add(model, 2, train_also="token_embedding", name="more")
    far(model)
    kerasllm.save(model, tokenizer, tmp_path / "table")
    assert "token_embedding/embeddings" in stored(tmp_path / "table")
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "table")[0](IDS), model(IDS))


def headed(base, quantize=None):
    """A classifier over a base, whose head is trained and kernels adapted."""
    model, tokenizer = kerasllm.load(base, quantize=quantize)
    model = SequenceClassifier.from_model(model, labels=["a", "b", "c"], quantized=bool(quantize))
    adapters.add(model, 2, train_also="head_output")
    return far(model), tokenizer


def test_a_new_head_over_a_base_is_kept_with_its_adapters(bases, tmp_path):
    shutil.copytree(bases / "hf", tmp_path / "base")
    model, tokenizer = headed(tmp_path / "base")
    kerasllm.save(model, tokenizer, tmp_path / "tuned")
    assert {name for name in stored(tmp_path / "tuned") if "/adapters/" not in name} == {"head_output/kernel"}
    loaded, _ = kerasllm.load(tmp_path / "tuned")
    assert (loaded.labels, loaded.causal, trained(loaded)) == (["a", "b", "c"], True, trained(model))
    np.testing.assert_array_equal(loaded(IDS), model(IDS))

    embedder = TextEmbedder.from_model(kerasllm.load(tmp_path / "base")[0], pooling="max")
    adapters.add(embedder, 2)
    kerasllm.save(far(embedder), tokenizer, tmp_path / "embedder")
    assert all("/adapters/" in name for name in stored(tmp_path / "embedder"))
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "embedder")[0](IDS), embedder(IDS))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="looked for in"):
        kerasllm.load(tmp_path / "tuned")


def test_a_model_whose_base_is_not_known_is_saved_whole(bases, tokenizer, tmp_path):
    model, _ = tuned(bases / "run", tmp_path)
    expected = np.array(model(IDS))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"")  # which is another one now
    kerasllm.save(model, tokenizer, tmp_path / "whole")
    shutil.rmtree(tmp_path / "base")
    np.testing.assert_array_equal(kerasllm.load(tmp_path / "whole")[0](IDS), expected)


def test_a_wrong_base_or_none_is_refused(bases, tokenizer, tmp_path):
    model, tokenizer = tuned(bases / "hf", tmp_path)
    kerasllm.save(model, tokenizer, tmp_path / "tuned")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    with pytest.raises(ValueError, match=r"base is not the base that \S+tuned was tuned from: its norm_epsilon is ano"):
        kerasllm.load(tmp_path / "tuned")
    weights = tmp_path / "base" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"base is not the base that \S+tuned was tuned from: its weights have the fi"):
        kerasllm.load(tmp_path / "tuned")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match=rf"looked for in {tmp_path}/base, and is not there: put it into one"):
        kerasllm.load(tmp_path / "tuned")
    kerasllm.save(CausalLM(GPT2), tokenizer, tmp_path / "base")
    with pytest.raises(ValueError, match="base is not the base that"):
        kerasllm.load(tmp_path / "tuned")


@pytest.mark.soak
def test_checkpoints_hold_what_is_trained(bases, tmp_path):
    def fit(checkpoint, epochs):
        shutil.rmtree(tmp_path / "base", ignore_errors=True)
        model, _ = tuned(bases / "run", tmp_path, train_also="final_norm")
        model.compile(kerasllm.optimizers.AdamW(0.01))
        checkpoint.restore(model)
        model.fit(
            IDS, IDS, epochs=epochs, batch_size=2, steps_per_epoch=2, shuffle=False, verbose=0, callbacks=[checkpoint]
        )
        return model

    model = fit(Checkpoint(tmp_path / "once"), 2)
    tokenizer = kerasllm.load(tmp_path / "base")[1]
    fit(Checkpoint(tmp_path / "twice", tokenizer=tokenizer), 1)
    path = tmp_path / "twice" / "step-00000002"
    assert all("/adapters/" in name or "final_norm" in name for name in stored(path))
    kerasllm.load(path)
    again = fit(Checkpoint(tmp_path / "twice"), 2)
    for expected, found in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_base_that_is_quantized_while_it_is_loaded_is_so_again(tmp_path):
    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abc "], kind="char", progress=False)
    config = kerasllm.models.TransformerConfig(tokenizer.vocab_size, 1, 64, 2, 64, max_length=16)
    kerasllm.save(far(CausalLM(config)), tokenizer, tmp_path / "base")
    model, _ = kerasllm.load(tmp_path / "base", quantize="nf4")
    adapters.add(model, rank=2)
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    kerasllm.save(model, tokenizer, tmp_path / "run")
    again, _ = kerasllm.load(tmp_path / "run")
    ids = np.arange(8)[None] % tokenizer.vocab_size
    np.testing.assert_array_equal(again(ids), model(ids))
    assert all("/adapters/" in name for name in stored(tmp_path / "run"))
    whole, _ = kerasllm.load(tmp_path / "base")  # adapters go into that
    adapters.add(whole, rank=2)
    for ours, theirs in zip(whole.trainable_weights, model.trainable_weights, strict=True):
        ours.assign(theirs)
    assert np.abs(np.asarray(whole(ids)) - again(ids)).max() > 1e-3
    assert main(["merge", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    np.testing.assert_allclose(kerasllm.load(tmp_path / "merged")[0](ids), whole(ids), atol=1e-4)

    model, _ = headed(tmp_path / "base", "nf4")
    kerasllm.save(model, tokenizer, tmp_path / "labels")
    assert not any("codes" in name for name in stored(tmp_path / "labels"))
    again, _ = kerasllm.load(tmp_path / "labels")
    np.testing.assert_array_equal(again(ids), model(ids))
    assert any("codes" in weight.path for weight in again.weights)
    assert not any("codes" in w.path for w in kerasllm.load(tmp_path / "labels", quantize=False)[0].weights)
