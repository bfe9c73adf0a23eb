"""Training on pictures with texts, here and by KerasHub: models of PaliGemma's architecture, a picture in each text.

The picture and the question behind it are seen both ways, and only the answer is learned. Speed is counted in tokens of
all three.
"""

import tempfile

from kerasllm.benchmark.programs import fitting_batch

QUESTION = 16  # tokens of a text
PICTURE_TOKEN, FIRST_WORD = 1, 4
GEMMA = {
    "num_kv_heads": 1,
    "positions": "rotary",
    "norm": "rms",
    "gated": True,
    "activation": "gelu_tanh",
    "use_bias": False,
    "tie_embeddings": True,
    "scale_embeddings": True,
}


def train_images_kerasllm(sizes, batch_size, length, image_size, patch_size, dtype, steps=6):
    """Steps of a `VisionLanguageModel`.

    Args:
        sizes: dict of num_layers, d_model, num_heads and dff, which the encoder of pictures has too, and of vocab_size.
        length: int, tokens of a text, those of its picture not counted.
        image_size, patch_size: int, pixels.
    """
    import numpy as np

    model = _seeing_model(sizes, length, image_size, patch_size, PICTURE_TOKEN, dtype)
    P = model.tokens_per_image
    pixels, ids, labels, learned = _batch(sizes["vocab_size"], batch_size, length, image_size)
    before = ((0, 0), (P, 0))
    ids = np.pad(ids, before, constant_values=PICTURE_TOKEN)
    spans = (np.arange(P + length) < P + QUESTION).astype("int32") + np.zeros_like(ids)
    inputs = {"token_ids": ids, "pixel_values": pixels, "span_ids": spans}
    batch = (inputs, np.pad(labels, before), np.pad(learned, before))
    return fitting_batch(model, batch, steps), steps * ids.size


def train_image_files(sizes, batch_size, length, image_size, patch_size, dtype, in_memory, steps=12):
    """The same on JPEG files of 480 x 360 pixels, which are decoded and resized for each batch; or on the batches that
    they make, kept in memory, so that the ratio tells what reading costs."""
    import kerasllm
    from kerasllm.images import ImageProcessor, ImageTokens

    tokenizer = kerasllm.tokenizers.Tokenizer.train(["abc "], kind="char", special_tokens=["<image>"], progress=False)
    (image_id,) = tokenizer.encode("<image>", parse_special=True)
    model = _seeing_model(sizes, length, image_size, patch_size, image_id, dtype)
    P = model.tokens_per_image
    folder = tempfile.TemporaryDirectory(prefix="kerasllm-images-")
    text = ("abc " * length)[: length - QUESTION]
    examples = [{"images": [path], "prompt": "a" * QUESTION, "text": text} for path in _jpeg_files(folder.name)]
    processor = ImageProcessor(image_size, tokens=ImageTokens(P))
    dataset = kerasllm.data.image_text_dataset(
        examples, tokenizer, processor, P + length, batch_size, epochs=1000, prefix=True
    )
    each = len(examples) // batch_size
    if in_memory:
        dataset = dataset.take(each).cache().repeat()

    def fit(steps):
        model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)

    fit(each + 1)

    def train(folder=folder):  # which lives as long as this
        fit(steps)

    return train, steps * batch_size * (P + length)


def train_images_keras_hub(sizes, batch_size, length, image_size, patch_size, dtype, jit_compile, steps=6):
    """The same of a `PaliGemmaCausalLM`; its `intermediate_dim` counts the gate."""
    import keras
    import numpy as np
    from keras_nlp.models import PaliGemmaBackbone, PaliGemmaCausalLM

    heads, width, inner = sizes["num_heads"], sizes["d_model"], sizes["dff"]
    backbone = PaliGemmaBackbone(
        sizes["vocab_size"],
        image_size,
        sizes["num_layers"],
        heads,
        num_key_value_heads=1,
        hidden_dim=width,
        intermediate_dim=2 * inner,
        head_dim=width // heads,
        vit_patch_size=patch_size,
        vit_num_heads=heads,
        vit_hidden_dim=width,
        vit_num_layers=sizes["num_layers"],
        vit_intermediate_dim=inner,
        dtype=dtype,
    )
    model = PaliGemmaCausalLM(None, backbone)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
    model.compile(optimizer, loss, weighted_metrics=[], jit_compile=jit_compile)
    pixels, ids, labels, learned = _batch(sizes["vocab_size"], batch_size, length, image_size)
    P = backbone.image_sequence_length
    is_answer = np.tile(np.arange(P + length) >= P + QUESTION, (batch_size, 1)).astype("int32")
    inputs = {"images": pixels, "token_ids": ids, "response_mask": is_answer, "padding_mask": np.ones_like(is_answer)}
    return fitting_batch(model, (inputs, labels, learned), steps), steps * is_answer.size


def _seeing_model(sizes, length, image_size, patch_size, image_token_id, dtype):
    from kerasllm.models import TransformerConfig, VisionLanguageModel
    from kerasllm.optimizers import AdamW
    from kerasllm.vision import VisionConfig

    eyes = {name: size for name, size in sizes.items() if name != "vocab_size"}
    vision = VisionConfig(image_size, patch_size, **eyes, activation="gelu_tanh")
    config = TransformerConfig(**sizes, **GEMMA, max_length=vision.num_patches + length)
    model = VisionLanguageModel(config, vision, {"kind": "linear"}, image_token_id, attention="prefix", dtype=dtype)
    model.compile(AdamW(1e-3))
    return model


def _jpeg_files(folder, count=64):
    """Files of pictures that have edges and shades, as photos have."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype="uint8")).resize((480, 360), 2 + number % 2)
        noise = draw.integers(-8, 9, (360, 480, 3))
        pixels = np.clip(np.asarray(coarse).astype("int16") + noise, 0, 255).astype("uint8")
        path = f"{folder}/{number}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        yield path


def _batch(vocab_size, batch_size, length, image_size):
    """Pictures, the ids of texts, the next of each, and which of these are learned, by chance."""
    import numpy as np

    draw = np.random.default_rng(0)
    pixels = draw.normal(size=(batch_size, image_size, image_size, 3)).astype("float32")
    ids = draw.integers(FIRST_WORD, vocab_size, (batch_size, length + 1), dtype="int32")
    learned = np.tile(np.arange(length) >= QUESTION - 1, (batch_size, 1)).astype("float32")
    return pixels, ids[:, :-1], ids[:, 1:], learned
