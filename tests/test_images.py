"""Images: what files become, and what `ImageProcessor` makes of them. tests/parity compares with transformers."""

import re
import resource
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import bombs, chunk, encoded, noise, png, turned
from PIL import Image

from kerasllm.export import image_saved_model
from kerasllm.images import (
    ImageProcessor,
    ImageTokens,
    PanAndScan,
    Tiling,
    image_size,
    read_image,
)
from kerasllm.images.in_graph import InGraphImageProcessor, decode_image
from kerasllm.images.in_graph.resampling import resized as in_graph_resized
from kerasllm.images.resampling import resized
from kerasllm.models import ContrastiveModel, ImageClassifier, TransformerConfig
from kerasllm.vision import VisionConfig

COLOURS = noise(6, 9, 3)
SMOOTH = (np.add.outer(np.arange(24), 3 * np.arange(40))[..., None] + [0, 20, 40]).astype("uint8")


def test_a_file_becomes_what_it_shows(tmp_path):
    assert (read_image(encoded(COLOURS)) == COLOURS).all()
    (tmp_path / "a.png").write_bytes(encoded(COLOURS))
    assert (read_image(tmp_path / "a.png") == COLOURS).all()
    assert (read_image(Image.fromarray(COLOURS)) == COLOURS).all()
    assert (read_image(encoded(COLOURS, "WEBP", lossless=True)) == COLOURS).all()
    assert (read_image(COLOURS[..., :1]) == COLOURS[..., :1]).all()
    first, second = (Image.fromarray(np.full((4, 5), grey, "uint8")) for grey in (0, 255))
    assert (read_image(encoded(first, "GIF", save_all=True, append_images=[second])) == 0).all()
    assert np.abs(read_image(encoded(SMOOTH, "JPEG", quality=95)).astype(int) - SMOOTH).max() < 12
    assert read_image(encoded(noise(1, 1, 3))).shape == (1, 1, 3)
    assert read_image(encoded(np.zeros((1, 20_000, 3), "uint8"))).shape == (1, 20_000, 3)


def test_transparency_is_laid_on_white():
    alpha = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 0, "uint8")])
    alpha[0, 0, 3], alpha[0, 1, 3] = 255, 51
    for shown in (read_image(encoded(alpha)), read_image(alpha), read_image(encoded(alpha, "WEBP", lossless=True))):
        assert (shown[0, 0] == COLOURS[0, 0]).all()
        assert (np.abs(shown[0, 1] - (0.2 * COLOURS[0, 1] + 0.8 * 255)) <= 1).all()
        assert (shown[1:] == 255).all()
    palette = Image.fromarray(COLOURS).quantize(8)
    hole = np.asarray(palette) == 3
    shown = read_image(encoded(palette, transparency=3))
    assert (shown[hole] == 255).all()
    assert (shown[~hole] == np.asarray(palette.convert("RGB"))[~hole]).all()


def test_grey_of_16_bits_keeps_the_upper_8():
    grey = np.array([[0, 255, 256, 32_768, 65_535]], "uint16")
    assert read_image(encoded(grey))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_cmyk_and_black_and_white_become_colours():
    cmyk = Image.fromarray(np.full((8, 8, 3), (200, 30, 60), "uint8")).convert("CMYK")
    assert np.abs(read_image(encoded(cmyk, "JPEG", quality=95)).astype(int) - (200, 30, 60)).max() < 6
    checks = Image.fromarray(COLOURS).convert("1")
    assert (read_image(encoded(checks))[..., 1] == 255 * np.asarray(checks)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_its_exif_data_say(kind):
    corners = np.zeros((24, 40), "uint8")
    corners[:8, :8] = 255  # the upper left corner, and where the eight ways of holding a camera put it
    seen = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)]
    for orientation, (down, right) in enumerate(seen, start=1):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = turned(np.dstack([corners] * 3), orientation, kind, **options)
        shown = read_image(file)[..., 0]
        assert shown.shape == image_size(file) == ((24, 40) if orientation < 5 else (40, 24))
        assert shown[-3 if down else 2, -3 if right else 2] > 200
        assert shown[2 if down else -3, -3 if right else 2] < 50


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no image file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(TypeError, match="a path, bytes, an image of Pillow's or a uint8 array, got int"):
        read_image(3)
    with pytest.raises(TypeError, match=r"uint8 array .*, got float64 \(2, 2\)"):
        read_image(np.zeros((2, 2)))
    for data in (b"", b"<svg/>", encoded(COLOURS, "BMP"), encoded(COLOURS, "TIFF")):
        with pytest.raises(ValueError, match="This image is no PNG, JPEG, WEBP or GIF file"):
            read_image(data)
    with pytest.raises(ValueError, match="cut short"):
        read_image(encoded(COLOURS)[:-13])
    with pytest.raises(ValueError, match=r"damaged: the sum of its part b'IDAT' does not fit"):
        read_image(encoded(COLOURS).replace(b"IDAT", b"IDAT\xff", 1)[: len(encoded(COLOURS))])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(encoded(noise(40, 40, 3), "JPEG")[:-200])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(png(4, 4, chunk(b"IDAT", b"nothing that inflates")))


def test_a_small_file_of_a_huge_image_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, file in bombs():
        with pytest.raises(ValueError, match=r"This image .*\.$"):
            read_image(file)
        assert name
    with pytest.raises(ValueError, match=r"This image has 9,000 x 9,000 pixels, and at most 67,108,864 are decoded"):
        read_image(png(9000, 9000, chunk(b"IDAT", zlib.compress(bytes(2**20)))))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_long_and_thin_images():
    long = np.zeros((2, 30_000, 3), "uint8")
    assert ImageProcessor(size=16)(long).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match=r"2 x 30,000 pixels would become one of 224 x 3,360,000: it is too long"):
        ImageProcessor(size=224, resize_to=224)(long)
    with pytest.raises(ValueError, match="too long and thin"):
        ImageProcessor(size=224, pad_to_square=True)(long)


def test_tiles_are_the_image_and_the_last_is_all_of_it():
    processor = ImageProcessor(
        32, tiles=Tiling(96), resample="nearest", mean=0, std=1, tokens=ImageTokens(2, style="tiles")
    )
    image = noise(64, 96, 3)
    pixels, rows, columns = processor.process(image)
    assert (rows, columns) == processor.grid(image) == processor.grid(encoded(image)) == (2, 3)
    tiles = (255 * pixels[:-1]).round().astype("uint8").reshape(2, 3, 32, 32, 3)
    assert (tiles.swapaxes(1, 2).reshape(64, 96, 3) == image).all()
    assert len(pixels) == processor.count(rows, columns) == processor.image_text(rows, columns).count("<image><image>")
    assert processor.grid(noise(1, 1, 3)) == (3, 3)  # small images are made large first, as SmolVLM does
    assert ImageProcessor(32, tiles=PanAndScan(8)).grid(noise(9, 30, 3)) == (1, 3)


def test_processors_are_saved_and_refuse_what_cannot_be(tmp_path):
    for processor in (
        ImageProcessor(30, mean=(0.1, 0.2, 0.3), tokens=ImageTokens(4)),
        ImageProcessor((30, 20), resize_to=(40, 40)),
        ImageProcessor(30, resize_to=33, pad_to_square=True, resample="lanczos"),
        ImageProcessor(30, tiles=Tiling(90, split=False), tokens=ImageTokens(4, style="tiles")),
        ImageProcessor(30, tiles=PanAndScan(8, 3, 1.5), tokens=ImageTokens(4, "<i>", "crops")),
    ):
        processor.save(tmp_path)
        assert ImageProcessor.load(tmp_path) == processor
    with pytest.raises(FileNotFoundError, match="has no preprocessor_config"):
        ImageProcessor.load(tmp_path / "none")
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Qwen2VLImageProcessor"}')
    with pytest.raises(ValueError, match="of an image processor 'Qwen2VLImageProcessor', and those of CLIP, Siglip"):
        ImageProcessor.load(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "do_center_crop": false}'
    )
    with pytest.raises(ValueError, match="no two of them fit into a batch"):
        ImageProcessor.load(tmp_path)
    for wrong in ({"size": 0}, {"resample": "best"}, {"mean": (1, 2)}, {"size": (2, 3), "tiles": Tiling(9)}):
        with pytest.raises(ValueError):
            ImageProcessor(**wrong)
    with pytest.raises(ValueError, match="does not know what stands for an image"):
        ImageProcessor().image_text()


def test_tensorflow_resamples_as_pillow():
    image = noise(30, 70, 3)
    for height, width in ((11, 90), (40, 20), (12, 68)):  # either pass first; see in_graph/resampling.py
        made = in_graph_resized(image, height, width, "lanczos")
        assert (made.numpy() == resized(image, height, width, "lanczos")).all()
    with pytest.raises(ValueError, match="with pan and scan cannot run inside a TensorFlow graph"):
        InGraphImageProcessor(ImageProcessor(tiles=PanAndScan()))


@pytest.mark.soak
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize(
    "options",
    [
        {"size": 48},
        {"size": 40, "resize_to": 40},
        {"size": (40, 25), "resize_to": 31},
        {"size": 40, "resize_to": 40, "pad_to_square": True, "mean": (0.48, 0.45, 0.4), "std": (0.27, 0.26, 0.28)},
        {"size": 64, "tiles": Tiling(200)},
        {"size": 64, "tiles": Tiling(200, split=False)},
    ],
)
def test_the_graph_gives_the_same_pixels(options, resample):
    processor = ImageProcessor(**options, resample=resample)
    graph = tf.function(InGraphImageProcessor(processor).__call__, input_signature=[tf.TensorSpec((), tf.string)])
    for height, width in ((1, 1), (5, 100), (40, 33), (64, 64), (200, 130), (97, 401)):
        for channels in (3, 4):
            file = encoded(noise(height, width, channels))
            pixels, *grid = graph(file)
            expected = processor.process(file)
            np.testing.assert_allclose(pixels, expected.pixel_values, atol=1e-6)
            assert (int(grid[0]), int(grid[1])) == expected[1:]


@pytest.mark.soak
def test_the_graph_decodes_as_pillow():
    decode = tf.function(decode_image, input_signature=[tf.TensorSpec((), tf.string)])
    palette = Image.fromarray(SMOOTH).quantize(16)
    files = [encoded(SMOOTH, "JPEG", quality=quality) for quality in (30, 60, 95)]
    files += [encoded(SMOOTH, "JPEG", progressive=True), encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG")]
    files += [encoded(SMOOTH[..., 0], "JPEG"), encoded(SMOOTH, "GIF"), encoded(SMOOTH, "WEBP")]
    files += [encoded(np.dstack([SMOOTH, SMOOTH[..., :1]]), "WEBP", lossless=True), encoded(palette)]
    files += [encoded(Image.fromarray(SMOOTH).convert(mode)) for mode in ("1", "L", "LA", "RGBA")]
    files += [encoded(SMOOTH[..., 0].astype("uint16") * 257 + 3), encoded(palette, transparency=2)]
    files += [turned(SMOOTH, orientation) for orientation in range(1, 9)]
    for file in files:
        assert np.abs(decode(file).numpy().astype(int) - read_image(file)).max() <= 1
    for name, file in bombs():
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(file)
        assert name


@pytest.mark.soak
def test_saved_models_take_the_bytes_of_files(tmp_path):
    """A process with TensorFlow alone answers as Python does."""
    vision = VisionConfig(image_size=16, patch_size=8, num_layers=1, d_model=16, num_heads=2, dff=32)
    config = TransformerConfig(20, num_layers=1, d_model=16, num_heads=2, dff=32, max_length=8)
    processor = ImageProcessor(16, resize_to=16, mean=(0.48, 0.45, 0.4), std=(0.27, 0.26, 0.28))
    files = [encoded(SMOOTH, "JPEG"), encoded(noise(60, 31, 4)), turned(SMOOTH, 6)]
    matching, classifier = ContrastiveModel(config, vision, width=8), ImageClassifier(vision, labels=["cat", "dog"])
    for name, model in (("matching", matching), ("classifier", classifier)):
        image_saved_model(model, processor, tmp_path / name)
    for number, file in enumerate(files):
        (tmp_path / f"{number}.image").write_bytes(file)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "folder = sys.argv[1]\n"
        "files = tf.constant([open(f'{folder}/{i}.image', 'rb').read() for i in range(3)])\n"
        "for name, what in (('matching', 'vector'), ('classifier', 'logits')):\n"
        "    saved = tf.saved_model.load(f'{folder}/{name}')\n"
        "    np.save(f'{folder}/{name}.npy', saved.signatures['serving_default'](image=files)[what].numpy())\n"
        "assert 'kerasllm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    expected = {"matching": matching.image_vectors(processor(files)), "classifier": classifier(processor(files))}
    for name, values in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), values, atol=1e-5)
    with pytest.raises(ValueError, match="without tiles="):
        image_saved_model(matching, ImageProcessor(16, tiles=Tiling(32)), tmp_path / "none")
    with pytest.raises(TypeError, match="ContrastiveModel or an ImageClassifier, got int"):
        image_saved_model(3, processor, tmp_path / "none")


def damaged(count):
    """Files of all kinds that were cut, overwritten or mixed, each in another way; whether what is wrong shows."""
    draw = np.random.default_rng(0)
    plain = "PNG", "JPEG", "WEBP", "GIF"
    kinds = [*((kind, {}) for kind in plain), ("JPEG", {"progressive": True}), ("WEBP", {"lossless": True})]
    images = [noise(*draw.integers(1, 60, 2), 3, seed=seed) for seed in range(20)]
    whole = [encoded(image, kind, **options) for image in images for kind, options in kinds]
    for number in range(count):
        file = bytearray(whole[number % len(whole)])
        way = number % 5
        if way == 0:
            yield bytes(file[: draw.integers(len(file))]), True
        elif way == 1:
            yield draw.bytes(int(draw.integers(1, 2000))), True
        elif way == 2:  # another kind's beginning
            other = whole[int(draw.integers(len(whole)))]
            yield bytes(other[: draw.integers(4, 40)]) + bytes(file[40:]), False
        else:  # bytes changed, in the head or anywhere
            reach = 64 if way == 3 else len(file)
            for place in draw.integers(0, min(reach, len(file)), int(draw.integers(1, 20))):
                file[place] = draw.integers(256)
            yield bytes(file), file[:4] == b"\x89PNG"


@pytest.mark.soak
def test_damaged_and_hostile_files_are_refused():
    """What shows is refused; a JPEG, WebP or GIF file of other bytes can be whole, and is then some image."""
    refused = made = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file, _ in damaged(5000):
            try:
                pixels = read_image(file)
            except ValueError as error:
                refused += 1
                assert re.fullmatch(r"This image [^\n]{10,300}\.", str(error)), error
            else:
                made += 1
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{refused} refused, {made} are images; {grown / 1000:.0f} MB")
    assert grown < 1_000_000
