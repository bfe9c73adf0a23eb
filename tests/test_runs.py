"""The run folder: what was saved is what is loaded, on either backend, or nothing at all and a sentence why."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kerasllm
from kerasllm import runs
from kerasllm.files import new_folder
from kerasllm.models.weights import weight_names

TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def tokenizer():
    return kerasllm.tokenizers.Tokenizer.train([TEXT], kind="char", progress=False)


@pytest.fixture(scope="module")
def config(tokenizer):
    return kerasllm.models.TransformerConfig(tokenizer.vocab_size, 2, 32, 4, 64, max_length=32, norm="rms", gated=True)


@pytest.fixture
def model(config):
    return kerasllm.models.CausalLM(config)


@pytest.fixture
def run(model, tokenizer, tmp_path):
    kerasllm.save(model, tokenizer, tmp_path / "run")
    return tmp_path / "run"


def weights_of(model):
    return {name: keras.ops.convert_to_numpy(weight) for name, weight in weight_names(model).items()}


def contents(folder):
    """Every path below a folder with what it holds."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "bfloat16"])
def test_what_is_loaded_is_what_was_saved(config, tokenizer, tmp_path, precision):
    model = kerasllm.models.CausalLM(config, dtype=precision)
    kerasllm.save(model, tokenizer, tmp_path / "new" / "run")
    loaded, reread = kerasllm.load(str(tmp_path / "new" / "run"))
    assert loaded.config == config and loaded.dtype_policy.name == precision
    assert keras.config.dtype_policy().name == "float32"
    assert reread.fingerprint() == tokenizer.fingerprint()
    before, after = weights_of(model), weights_of(loaded)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name], after[name])
    ids = np.array([tokenizer.encode(TEXT)[:20]])
    np.testing.assert_array_equal(model(ids), loaded(ids))


def test_weights_have_plain_names_and_tied_ones_are_stored_once(run, config):
    stored = load_file(run / "model.safetensors")
    assert "transformer/block_1/attention/query_key_value/kernel" in stored
    assert sum(array.size for array in stored.values()) == config.num_parameters()


@pytest.mark.soak
def test_backends_read_each_other(run, tokenizer, tmp_path, run_python, other_backend):
    ids = tokenizer.encode(TEXT)[:20]
    printed = run_python(
        f"""
        import json, keras, kerasllm, numpy as np
        assert keras.backend.backend() == {other_backend!r}
        model, tokenizer = kerasllm.load({str(run)!r})
        kerasllm.save(model, tokenizer, {str(tmp_path / "from-other")!r})
        logits = keras.ops.convert_to_numpy(model(np.array([{ids}])))
        print(json.dumps(logits.tolist()))
        """,
        backend=other_backend,
    )
    model, _ = kerasllm.load(tmp_path / "from-other")
    assert (tmp_path / "from-other" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    np.testing.assert_allclose(model(np.array([ids])), json.loads(printed), atol=1e-5)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_refused_and_untouched(model, tokenizer, tmp_path, kind):
    place = tmp_path / "mine"
    if kind == "file":
        place.write_text("mine")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        if kind == "folder":
            (place / "model.safetensors").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"mine exists.*name a folder"):
        kerasllm.save(model, tokenizer, place)
    assert contents(tmp_path) == before


def test_a_full_disk_gives_one_error_and_leaves_nothing(tmp_path, run_python):
    """A limit on the size of files stands for the disk: the small files fit, the weights do not."""
    printed = run_python(
        f"""
        import kerasllm, os, resource
        tokenizer = kerasllm.tokenizers.Tokenizer.train(["abc"], kind="char", progress=False)
        model = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(tokenizer.vocab_size, 2, 64, 4, 256))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            kerasllm.save(model, tokenizer, {str(tmp_path / "run")!r})
        except OSError as error:
            print(error.errno, error)
        """
    )
    assert printed.startswith("27 ") and "Could not write" in printed and "nothing was left behind" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_nothing(model, tokenizer, tmp_path, monkeypatch, error):
    def fail(folder):
        raise error

    monkeypatch.setattr(runs, "seal", fail)
    with pytest.raises(type(error)):
        kerasllm.save(model, tokenizer, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_callers_inside_new_folder_stays_what_it_was(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.txt"), new_folder(tmp_path / "run"):
        (tmp_path / "corpus.txt").read_text()
    with pytest.raises(ValueError, match="no text"), new_folder(tmp_path / "run"):
        raise ValueError("no text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run folder"):
        kerasllm.load(tmp_path / "nowhere")
    (run / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"not a finished run folder: it has no manifest\.json"):
        kerasllm.load(run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_changed_or_lost_file_is_named(run, name):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not the file that was saved"):
        kerasllm.load(run)
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        kerasllm.load(run)


def rewrite_weights(run, change):
    arrays = load_file(run / "model.safetensors")
    change(arrays)
    save_file(arrays, run / "model.safetensors")
    runs.seal(run)


def test_weights_that_do_not_fit_the_config_are_named(run):
    scale = "transformer/final_norm/scale"
    rewrite_weights(run, lambda arrays: arrays.update({scale: np.ones(33, "float32")}))
    with pytest.raises(ValueError, match=rf"model\.safetensors holds '{scale}' with shape \(33,\).*asks for \(32,\)"):
        kerasllm.load(run)
    rewrite_weights(run, lambda arrays: arrays.pop(scale))
    with pytest.raises(ValueError, match=f"model.safetensors lacks the tensor '{scale}' that"):
        kerasllm.load(run)
    rewrite_weights(run, lambda arrays: arrays.update({scale: np.ones(32, "float32"), "extra": np.ones(1)}))
    with pytest.raises(ValueError, match=r"model\.safetensors holds the tensor 'extra', which"):
        kerasllm.load(run)
    (run / "model.safetensors").write_bytes(b"not safetensors")
    runs.seal(run)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        kerasllm.load(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ("[]", "holds a list"),
        ('{"kind": "CausalLM", "config": {}}', "lacks 'dtype_policy'"),
        ('{"kind": "os.system", "config": {}, "dtype_policy": "float32"}', "kind 'os.system'"),
        ('{"kind": "CausalLM", "config": {"vocab": 1}, "dtype_policy": "float32"}', "Unknown TransformerConfig field"),
    ],
)
def test_a_config_that_says_nonsense_is_a_sentence(run, content, message):
    (run / "config.json").write_text(content)
    runs.seal(run)
    with pytest.raises(ValueError, match=message):
        kerasllm.load(run)


def test_the_manifest_covers_every_file(run):
    (run / "tokens").mkdir()
    (run / "tokens" / "part.bin").write_bytes(b"123")
    runs.seal(run)
    files = json.loads((run / "manifest.json").read_text())["files"]
    assert files.keys() == {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()} - {"manifest.json"}
    # echo -n 123 | sha256sum
    assert files["tokens/part.bin"] == "a665a45920422f9d417e4867efdc4fb8a04a1f3fff1fa07e998e86f7f7a27ae3"


def test_only_what_a_run_folder_can_hold_is_saved(model, tokenizer, tmp_path):
    with pytest.raises(TypeError, match=r"CausalLM, MaskedLM, Seq2SeqLM, .*, not Sequential.*model\.save"):
        kerasllm.save(keras.Sequential([keras.layers.Dense(1)]), tokenizer, tmp_path / "run")
    with pytest.raises(TypeError, match=r"A tokenizer is a kerasllm.tokenizers.Tokenizer, got .bpe."):
        kerasllm.save(model, "bpe", tmp_path / "run")
    small = kerasllm.models.CausalLM(kerasllm.models.TransformerConfig(5, 1, 8, 1, 8))
    with pytest.raises(ValueError, match=f"{tokenizer.vocab_size} ids and the model only 5"):
        kerasllm.save(small, tokenizer, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
