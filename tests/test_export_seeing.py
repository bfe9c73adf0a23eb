"""SavedModels of models that see: the bytes of an image and a text in, text out, as Python gives it."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from image_files import encoded, noise, turned
from seeing import IMAGES_FIRST, IN_ORDER, seeing_model

import kerasllm
from kerasllm.export.seeing_texts import ServedSeeing
from kerasllm.images import ImageProcessor, ImageTokens, PanAndScan, Tiling

TILED = ImageProcessor(
    8, mean=0.0, std=0.25, resample="lanczos", tiles=Tiling(16), tokens=ImageTokens(4, style="tiles")
)
ALONE = """
import sys, numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures
images = [open(path, "rb").read() for path in sys.argv[2:]]
texts = ["what is it?", "<image>?", ""]
made = served["serving_default"](image=tf.constant(images), text=tf.constant(texts))["text"]
drawn = served["generate"](image=tf.constant(images[:1]), text=tf.constant(texts[:1]), max_new_tokens=tf.constant(9),
    temperature=tf.constant(0.9), top_k=tf.constant(0), top_p=tf.constant(1.0), seed=tf.constant(3))
print([text.decode() for text in [*made.numpy(), *drawn["text"].numpy()]])
assert not [name for name in sys.modules if name.startswith("kerasllm")]
"""


@pytest.mark.parametrize(
    ("template", "tiled"),
    [
        (IN_ORDER, True),
        *(
            pytest.param(template, tiled, marks=pytest.mark.soak)
            for template, tiled in ((IMAGES_FIRST, True), (None, True), (None, False), (IMAGES_FIRST, False))
        ),
    ],
)
def test_prompts_in_a_graph_are_those_of_python(template, tiled):
    model, tokenizer = seeing_model(template=template, max_length=256)
    model.image_processor = TILED if tiled else model.image_processor
    served = ServedSeeing(model, tokenizer)
    images = [noise(9, 9, 3), noise(20, 11, 3), noise(8, 30, 3)]
    texts = ["what?", "", " <image>\n a  "]
    ids, inputs = served._read(tf.constant([encoded(image) for image in images]), tf.constant(texts))
    prompts = [
        kerasllm.data.image_prompt(tokenizer, model.image_processor, image, text)
        for image, text in zip(images, texts, strict=True)
    ]
    assert ids.to_list() == [prompt["token_ids"] for prompt in prompts]
    pixels = np.concatenate([prompt["pixel_values"] for prompt in prompts])
    np.testing.assert_allclose(inputs["pixel_values"], pixels, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="These bytes are no PNG"):
        served._read(tf.constant([b"x"]), tf.constant(["what?"]))


def test_what_cannot_be_exported_is_said(tmp_path):
    model, tokenizer = seeing_model()
    processor, model.image_processor = model.image_processor, None
    with pytest.raises(ValueError, match="nothing says how pixel values"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "a")
    model.image_processor = ImageProcessor(8, tiles=PanAndScan(), tokens=ImageTokens(4))
    with pytest.raises(ValueError, match="pan and scan cannot run inside"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "a")
    model.image_processor = processor
    with pytest.raises(ValueError, match="leave `compiled` out"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "a", compiled=True)
    with pytest.raises(ValueError, match="`constraints` are for models that read texts alone"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "a", constraints={"a": "b"})
    tokenizer.chat_template = "{{ messages[0].content[1].text }}<image>"
    with pytest.raises(ValueError, match="does not write an image and then a text"):
        kerasllm.export.saved_model(model, tokenizer, tmp_path / "a")
    for write, name in (
        (kerasllm.gguf.save, "a.gguf"),
        (kerasllm.export.litert, "a.tflite"),
        (kerasllm.export.onnx, "a"),
    ):
        with pytest.raises(ValueError, match="holds models that read text alone, and this is a VisionLanguageModel"):
            write(model, tokenizer, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize("attention", ["causal", "image", "prefix"])
def test_tensorflow_alone_answers_as_python_does(attention, tmp_path):
    model, tokenizer = seeing_model(attention)
    model.image_processor = TILED if attention == "causal" else model.image_processor
    kerasllm.export.saved_model(model, tokenizer, tmp_path / "saved")
    images = [encoded(noise(20, 11, 3)), turned(noise(9, 14, 3), 6, quality=90), encoded(noise(16, 16, 3))]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    run = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "saved", *paths], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    prompts = [
        kerasllm.data.image_prompt(tokenizer, model.image_processor, image, text)
        for image, text in zip(images, ["what is it?", "<image>?", ""], strict=True)
    ]
    expected = [kerasllm.generate(model, tokenizer, prompt) for prompt in prompts]
    expected.append(kerasllm.generate(model, tokenizer, prompts[0], 9, temperature=0.9, seed=3))
    assert run.stdout.strip() == str(expected)
    assert len(set(expected)) > 2  # what is seen says what is written
