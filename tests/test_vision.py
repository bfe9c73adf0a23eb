"""Models that see: encoders, projectors, pictures in texts, and what they refuse."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from keras_contract import check_layer
from oracles import TRAINING_ONLY, scramble, weights_of
from oracles import transformer as oracle_of_transformer
from test_micro_batches import SPLITS

import kerasllm
from kerasllm.generation.buffers import check_prompts
from kerasllm.layers import BlockOptions, Transformer
from kerasllm.losses import MatchingSigmoid, MatchingSoftmax
from kerasllm.models import ContrastiveModel, ImageClassifier, TransformerConfig, VisionLanguageModel
from kerasllm.optimizers import Muon
from kerasllm.tokenizers import Tokenizer
from kerasllm.vision import Projector, ProjectorConfig, VisionConfig, VisionTransformer
from kerasllm.vision.patches import in_between

rng = np.random.default_rng(0)
IMAGE, V = 20, 30
SMALL = VisionConfig(12, 4, num_layers=1, d_model=16, num_heads=2, dff=24)
TEXT = TransformerConfig(V, num_layers=1, d_model=20, num_heads=2, dff=24, max_length=32)


def pictures(*shape):
    return rng.normal(size=(*shape, 12, 12, 3)).astype("float32")


def model_of(attention="causal", kind="mlp", **options):
    return scramble(
        VisionLanguageModel(TEXT, SMALL, {"kind": kind, "factor": 3}, IMAGE, attention=attention, **options)
    )


def test_an_encoder_computes_what_its_paper_says():
    config = VisionConfig(
        12, 4, 2, 16, 2, 24, class_token=True, input_norm=True, activation="quick_gelu", pooling="first"
    )
    encoder = scramble(VisionTransformer(config))
    pixels = pictures(2)
    x = encoder(pixels)
    w = weights_of(encoder)
    patches = [[p[r : r + 4, c : c + 4].ravel() for r in (0, 4, 8) for c in (0, 4, 8)] for p in pixels]
    kernel, bias = w.pop("patch_embedding/projection/kernel"), w.pop("patch_embedding/projection/bias")
    expected = np.asarray(patches) @ kernel + bias
    first = np.broadcast_to(w.pop("patch_embedding/class_token"), (2, 1, 16))
    expected = np.concatenate([first, expected], axis=1) + w.pop("patch_embedding/positions")
    options = {name: value for name, value in BlockOptions.of(config).items() if name not in TRAINING_ONLY}
    options |= {"positions": None, "causal": False, "input_norm": True}
    inner = {name.removeprefix("transformer/"): value for name, value in w.items()}
    expected = oracle_of_transformer(inner, expected, num_layers=2, num_heads=2, **options)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(encoder.pooled(x), x[:, 0])
    assert sum(np.prod(v.shape) for v in encoder.weights) == config.num_parameters()


def test_positions_of_other_sizes_lie_in_between():
    matrix = in_between(4, 7)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(in_between(5, 5), np.eye(5))
    # torch.nn.functional.interpolate of 0, 1, 4, 9 to 7 places, bicubic
    expected = [-0.0992165, 0.1562487, 0.8042082, 2.1250005, 4.4246578, 7.4807754, 9.4960823]
    np.testing.assert_allclose(matrix @ np.array([0, 1, 4, 9]), expected, atol=1e-5)
    encoder = VisionTransformer(SMALL)
    assert encoder(rng.normal(size=(1, 20, 9, 3)).astype("float32")).shape == (1, 5 * 2, 16)


@pytest.mark.parametrize("kind", ["linear", "mlp", "pixel_shuffle", "average", "perceiver"])
def test_projectors(kind):
    config = ProjectorConfig(kind, factor=2, num_tokens=3)
    projector = scramble(Projector(config, 8))
    x = rng.normal(size=(2, 16, 5)).astype("float32")
    y = projector(x)
    assert y.shape == (2, config.tokens_of(16), 8)
    grid = x.reshape(2, 4, 4, 5)
    w = weights_of(projector)
    if kind == "pixel_shuffle":  # the second token is made of the two by two patches at the right of the first
        square = np.concatenate([grid[:, r, c] for r in (0, 1) for c in (2, 3)], axis=-1)
        np.testing.assert_allclose(y[:, 1], square @ w["outer/kernel"] + w["outer/bias"], atol=1e-5)
    if kind == "average":
        mean = grid[:, 2:, :2].mean(axis=(1, 2))
        mean = mean / np.sqrt((mean**2).mean(axis=-1, keepdims=True) + 1e-6) * w["norm/scale"]
        np.testing.assert_allclose(y[:, 2], mean @ w["outer/kernel"] + w["outer/bias"], atol=1e-5)
    if kind == "perceiver":
        np.testing.assert_allclose(projector(x[:, ::-1].copy()), y, atol=1e-5)  # it has no places


def test_keras_contract(tmp_path):
    config = VisionConfig(8, 4, 1, 8, 2, 12).to_dict()
    check_layer(VisionTransformer, {"config": config}, {"pixel_values": pictures(2)[:, :8, :8]}, (2, 4, 8), tmp_path)


def test_tokens_of_a_span_see_each_other():
    layer = scramble(Transformer(2, 16, 2, 24, attention_window=(3, None)))
    spans = np.array([[0, 1, 1, 1, 0, 2, 2, 0]])
    x = rng.normal(size=(1, 8, 16)).astype("float32")
    other = x.copy()
    other[:, 3] += rng.normal(size=16)
    changed = np.abs(layer(x, span_ids=spans) - layer(other, span_ids=spans)).max(axis=(0, 2)) > 1e-6
    assert changed.tolist() == [False, True, True, True, True, True, True, True]
    cache = layer.init_cache(1, 8)
    first, cache = layer(x[:, :5], span_ids=spans[:, :5], cache=cache)
    rest = []
    for i in (5, 6, 7):
        y, cache = layer(x[:, i : i + 1], cache=cache, cache_index=i)
        rest.append(y)
    whole = layer(x, span_ids=np.where(spans == 1, 1, 0))
    np.testing.assert_allclose(np.concatenate([first, *rest], axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("attention", ["causal", "image", "prefix"])
def test_pictures_stand_in_a_text(attention):
    model = model_of(attention, "average")
    ids = np.array([[1, IMAGE, 2, 3, IMAGE, 4], [5, 6, IMAGE, 7, 8, 9]])
    three = pictures(3)
    logits = model({"token_ids": ids, "pixel_values": three})
    vectors, x = np.array(model.image_vectors(three))[:, 0], np.array(model.token_embedding(ids))
    x[0, 1], x[0, 4], x[1, 2] = vectors
    spans = {
        "causal": None,
        "image": [[0, 1, 0, 0, 2, 0], [0, 0, 1, 0, 0, 0]],
        "prefix": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]],
    }[attention]
    given = {} if spans is None else {"span_ids": np.array(spans, "int32")}
    np.testing.assert_allclose(model({"embeddings": x, **given}), logits, atol=1e-5)
    by_row = np.stack([three[[0, 1]], three[[2, 2]]])  # of which the second row has but one
    np.testing.assert_allclose(model({"token_ids": ids, "pixel_values": by_row}), logits, atol=1e-5)
    if attention == "prefix":
        cached, _ = model({"token_ids": ids[:1], "pixel_values": three[:2]}, cache=model.init_cache(1, 8))
        spans = np.ones((1, 6), "int32")
        whole = model({"token_ids": ids[:1], "pixel_values": three[:2], "span_ids": spans})
        np.testing.assert_allclose(cached, whole, atol=1e-5)


def test_image_tokens_are_no_labels():
    model = model_of()
    ids = np.array([[1] + [IMAGE] * 9 + [2, 3]])
    inputs, labels = {"token_ids": ids, "pixel_values": pictures(1)}, np.roll(ids, -1, axis=1)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    logits = ops.log_softmax(model(inputs))[0]
    expected = -np.mean([logits[i, labels[0, i]] for i in (9, 10, 11)])
    assert model.evaluate(inputs, labels, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def test_stages():
    model = model_of()
    parts = {"projector": {"projector"}, "language": {"projector", "transformer", "token_embedding"}}
    parts["all"] = {*parts["language"], "vision"}
    for stage, trained in parts.items():
        model.train_stage(stage)
        assert {v.path.split("/")[1] for v in model.trainable_variables} == trained
    with pytest.raises(ValueError, match="must be one of"):
        model.train_stage("eyes")


def test_what_is_refused():
    model, ids = model_of(), np.array([[1] + [IMAGE] * 9])
    for pixels, error, words in (
        (None, ValueError, "0 pictures stand .* the text has 9"),
        (pictures(2), ValueError, "2 pictures stand in a text as 9 tokens"),
        (pictures(1).astype("int32"), TypeError, "scaled and centred floats"),
        (pictures(1).transpose(0, 3, 1, 2), ValueError, "channels come last"),
        (pictures(1)[:, :2], ValueError, "have no patch of 4"),
    ):
        with pytest.raises(error, match=words):
            model({"token_ids": ids, "pixel_values": pixels})
    with pytest.raises(ValueError, match="2 pictures"):
        check_prompts(model, [{"token_ids": ids[0].tolist(), "pixel_values": pictures(2)}], V)
    assert not np.isfinite(model.embed({"token_ids": ids, "pixel_values": pictures(2)})).all()
    with pytest.raises(ValueError, match="an id below 30"):
        VisionLanguageModel(TEXT, SMALL, {}, V)
    with pytest.raises(ValueError, match="must divide the patches in a row"):
        VisionLanguageModel(TEXT, SMALL, {"kind": "pixel_shuffle"}, IMAGE)
    with pytest.raises(ValueError, match="here it is `d_model`"):
        VisionConfig.from_dict({**SMALL.to_dict(), "hidden_size": 3})


def test_matching_losses():
    logits, numbers = rng.normal(size=(3, 3)), np.array([4, 7, 4])
    own = np.exp(logits) * np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    expected = np.log(own.sum(1)) + np.log(own.sum(0)) - 2 * np.diag(logits)
    assert float(MatchingSoftmax()(numbers, logits)) == pytest.approx(expected.mean() / 2, rel=1e-5)
    signs = np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    expected = np.log1p(np.exp(-signs * logits)).sum() / 3
    assert float(MatchingSigmoid()(numbers, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_contrastive_model_learns_pairs(kind):
    keras.utils.set_random_seed(0)
    model = ContrastiveModel(TEXT, SMALL, 8, kind)
    inputs = {"token_ids": np.arange(4)[:, None] + np.array([[1, 9]]), "pixel_values": pictures(4)}
    model.compile(keras.optimizers.Adam(0.03), run_eagerly=True)
    losses = model.fit(inputs, epochs=6, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2


def settings_of(folder, change=None):
    """What config.json of a folder says; with a dict, first changed by it."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **(change or {})}
    path.write_text(json.dumps(values))
    return values


def test_folders_in_hugging_face_format(tmp_path):
    tokenizer = Tokenizer.train(["a b c"], kind="char", progress=False)
    clip = {"class_token": True, "patch_bias": False, "input_norm": True, "pooling": "first", "norm_epsilon": 1e-5}
    eyes = dataclasses.replace(SMALL, **clip)
    text = dataclasses.replace(TEXT, positions="learned")
    llama = dataclasses.replace(TEXT, norm="rms", gated=True, use_bias=False, activation="silu", tie_embeddings=False)
    tower = dataclasses.replace(eyes, final_norm=False)
    models = {
        "vit": (ImageClassifier(dataclasses.replace(SMALL, class_token=True, pooling="first"), 3), None),
        "clip": (ContrastiveModel(text, eyes, 8, causal=True, pooling="end", end_id=3), tokenizer),
        "llava": (VisionLanguageModel(llama, tower, {"kind": "mlp"}, IMAGE), tokenizer),
    }
    ids, pixels = np.array([[1] + [IMAGE] * 9]), pictures(1)
    for kind, (model, its) in models.items():
        inputs = pixels if its is None else {"token_ids": ids, "pixel_values": pixels}
        kerasllm.huggingface.save(scramble(model), its, tmp_path / kind)
        loaded, read = kerasllm.load(tmp_path / kind)
        assert settings_of(tmp_path / kind)["model_type"] == kind
        np.testing.assert_allclose(loaded(inputs), model(inputs), atol=1e-6)
        assert (read is None) == (its is None)
    settings_of(tmp_path / "llava", {"vision_feature_layer": [-2, -1]})
    with pytest.raises(ValueError, match=r"vision_feature_layer=\[-2, -1\]; kerasllm reads one layer"):
        kerasllm.load(tmp_path / "llava")
    with pytest.raises(ValueError, match="No architecture of Hugging Face computes what this model does"):
        kerasllm.huggingface.save(model_of(kind="perceiver"), tokenizer, tmp_path / "none")


def test_run_folders(tmp_path):
    tokenizer = Tokenizer.train(["a b c"], kind="char", progress=False)
    ids, pixels = np.array([[1] + [IMAGE] * 9]), pictures(1)
    vlm = model_of("prefix")
    both = scramble(ContrastiveModel(TEXT, SMALL, 8, "sigmoid", pooling="end", end_id=3))
    classifier = scramble(ImageClassifier(SMALL, labels=["cat", "dog"]))
    for i, (model, its) in enumerate(((vlm, tokenizer), (both, tokenizer), (classifier, None))):
        inputs = pixels if its is None else {"token_ids": ids, "pixel_values": pixels}
        kerasllm.save(model, its, tmp_path / str(i))
        loaded, read = kerasllm.load(tmp_path / str(i))
        np.testing.assert_array_equal(loaded(inputs), model(inputs))
        assert (read is None) == (its is None)
        ours, its = (json.loads(json.dumps({**m.get_config(), "name": None})) for m in (loaded, model))
        assert ours == its
    assert loaded.labels == ["cat", "dog"]
    classifier.compile(run_eagerly=True)
    assert np.isfinite(classifier.fit(pixels, np.array([1]), verbose=0).history["loss"][0])


def test_weights_begin_where_learning_is_quick():
    """Patches and places add about as much, near places are alike, and kernels of a narrow text model are as large."""
    config = VisionConfig(64, 4, num_layers=1, d_model=64, num_heads=4, dff=256, class_token=True)
    encoder = ImageClassifier(config, 2).vision_encoder.patch_embedding
    positions = encoder.positions.numpy()[1:].reshape(16, 16, 64)
    assert 0.5 < positions.std() / encoder.projection(rng.normal(size=(500, 48)).astype("float32")).numpy().std() < 2
    likeness = (positions / np.linalg.norm(positions, axis=-1, keepdims=True)) @ positions[5, 5]
    assert all(np.argsort(likeness, axis=None)[:-6:-1] // 16 - 5 <= 1) and likeness.argmax() == 16 * 5 + 5
    model = VisionLanguageModel(TEXT, SMALL, {"kind": "mlp"}, IMAGE)
    kernel = model.transformer.blocks[0].feed_forward.inner.kernel.numpy()
    assert kernel.std() == pytest.approx((2 / (5 * TEXT.d_model)) ** 0.5, rel=0.15)


def test_muon_leaves_tables_to_adamw():
    model = VisionLanguageModel(TEXT, SMALL, {"kind": "perceiver"}, IMAGE)
    left = {v.name for v in model.trainable_variables if len(v.shape) == 2 and not Muon().is_orthogonalized(v)}
    assert left == {"embeddings", "positions", "queries"}


def test_texts_of_a_row_do_not_see_what_follows_in_theirs():
    """With "document_ids" the prefix of each ends with its own last picture, not with that of the row."""
    model = model_of("prefix", "average")
    ids, documents = np.array([[IMAGE, 1, 2, 3, IMAGE, 4, 5]]), np.array([[1, 1, 1, 1, 2, 2, 2]])
    inputs = {"token_ids": ids, "document_ids": documents, "pixel_values": pictures(2)}
    apart = [
        model({"token_ids": ids[:, part], "pixel_values": inputs["pixel_values"][i : i + 1]})
        for i, part in enumerate((slice(0, 4), slice(4, 7)))
    ]
    np.testing.assert_allclose(model(inputs), np.concatenate(apart, axis=1), atol=1e-5)


def contrastive_updates(kind, labels):
    """Losses of some steps over six pairs, and the weights after them. A second process runs this text too."""
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 2, "dff": 24}
    draw = np.random.default_rng(0)
    pairs = {
        "token_ids": draw.integers(1, 20, (6, 5)),
        "pixel_values": draw.normal(size=(6, 8, 8, 3)).astype("float32"),
    }
    model = ContrastiveModel(TransformerConfig(20, **sizes), VisionConfig(8, 4, **sizes), 8, kind)
    model.compile(keras.optimizers.SGD(0.1))
    labels = None if labels is None else np.array(labels, "int32")
    losses = model.fit(pairs, labels, epochs=3, batch_size=6, shuffle=False, verbose=0).history["loss"]
    measured = model.evaluate(pairs, labels, batch_size=6, verbose=0)
    return [*losses, measured], [keras.ops.convert_to_numpy(weight).tolist() for weight in model.weights]


ON_DEVICES = """
import contextlib, json, keras, numpy as np
from kerasllm.models import ContrastiveModel, TransformerConfig
from kerasllm.vision import VisionConfig
{split}
{function}
with scope:
    print("RESULT", json.dumps(contrastive_updates({kind!r}, {labels!r})))
"""


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize(("kind", "labels"), [("softmax", None), ("sigmoid", [0, 1, 2, 0, 3, 1])])
def test_pairs_of_other_devices_are_negatives_too(backend, kind, labels, run_python, monkeypatch):
    """Two devices with half of a batch each have the losses and the updates of one with all of it."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    code = ON_DEVICES.format(
        split=SPLITS[backend], function=inspect.getsource(contrastive_updates), kind=kind, labels=labels
    )
    losses, weights = json.loads(run_python(code, backend).rpartition("RESULT ")[2])
    alone = run_python(code.replace(SPLITS[backend], "scope = contextlib.nullcontext()"), backend)
    expected_losses, expected = json.loads(alone.rpartition("RESULT ")[2])
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    for found, one in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, one, atol=1e-5)
