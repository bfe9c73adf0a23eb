"""Pixel values beside those of transformers' processors on Pillow, value for value."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from kerasllm.images import ImageProcessor, ImageTokens
from kerasllm.images.video import frames_to_take

PIL = pytest.importorskip("PIL.Image")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = [(1, 1), (5, 300), (40, 33), (64, 64), (200, 130), (97, 401), (700, 90), (513, 512)]  # height, width


def pictures():
    """Noise, which shows each error of a filter, in several modes, and one of each size."""
    draw = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        mode = ("RGB", "RGBA", "L", "RGB")[number % 4]
        channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
        yield PIL.fromarray(draw.integers(0, 256, (height, width, *channels), dtype=np.uint8))


def peers():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as CLIP
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil as Gemma3
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil as Idefics3
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil as Llava
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Siglip
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil as SmolVLM
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil as ViT

    crop = {"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}}
    odd = {"size": {"shortest_edge": 31}, "crop_size": {"height": 40, "width": 25}}
    tiles = {"size": {"longest_edge": 200}, "max_image_size": {"longest_edge": 64}}
    pan = dict(zip(("min_crop_size", "max_num_crops", "min_ratio_to_activate"), (30, 4, 1.2), strict=True))
    pan = {f"pan_and_scan_{name}": value for name, value in pan.items()}
    return {
        "clip": CLIP(**crop),
        "clip_larger_crop": CLIP(**odd),
        "siglip": Siglip(size={"height": 48, "width": 56}),
        "vit": ViT(size={"height": 32, "width": 32}, do_convert_rgb=True),
        "llava": Llava(**crop),
        "llava_padded": Llava(**crop, do_pad=True),
        "paligemma": Siglip(image_seq_length=9, size={"height": 24, "width": 24}),
        "smolvlm": SmolVLM(**tiles),
        "smolvlm_whole": SmolVLM(**tiles, do_image_splitting=False),
        "idefics3": Idefics3(size={"longest_edge": 300}, max_image_size={"longest_edge": 100}),
        "gemma3": Gemma3(size={"height": 32, "width": 32}),
        "gemma3_crops": Gemma3(size={"height": 32, "width": 32}, do_pan_and_scan=True, **pan),
        "no_mean": Siglip(size={"height": 9, "width": 9}, do_normalize=False),
        "bytes": Siglip(size={"height": 9, "width": 9}, do_rescale=False, image_mean=[1, 2, 3], image_std=[4, 5, 6]),
    }


@pytest.mark.parametrize("name", peers())
def test_pixel_values_are_those_of_transformers(name, tmp_path):
    theirs = peers()[name]
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.load(tmp_path)
    (tmp_path / "again").mkdir()
    ours.save(tmp_path / "again")
    assert dataclasses.replace(ImageProcessor.load(tmp_path / "again"), tokens=ours.tokens) == ours
    for picture in pictures():
        expected = theirs(picture, return_tensors="np")["pixel_values"]
        expected = np.moveaxis(expected.reshape(-1, *expected.shape[-3:]), 1, 3)
        made = ours.process(picture)
        np.testing.assert_array_equal(made.pixel_values, expected)
        assert ours.count(*ours.grid(picture)) == len(expected)


def random_processor(draw):
    """A processor of transformers of any family, with sizes and numbers of its own."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    height, width, edge, longest = (int(length) for length in draw.integers((8, 8, 8, 60), (70, 70, 70, 300)))
    mean, std = draw.uniform(0.2, 0.8, (2, 3)).tolist()
    options = {"image_mean": mean, "image_std": std, "resample": int(draw.choice([1, 2, 3]))}
    crop = {"size": {"shortest_edge": edge}, "crop_size": {"height": height, "width": width}}
    squashed = {"size": {"height": height, "width": width}}
    pan = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": height, "pan_and_scan_max_num_crops": 5}
    pan["pan_and_scan_min_ratio_to_activate"] = float(draw.uniform(1, 2))
    tiles = {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": 2 * edge}}
    kinds = [
        (CLIPImageProcessorPil, crop),
        (LlavaImageProcessorPil, {**crop, "do_pad": True}),
        (SiglipImageProcessorPil, squashed),
        (Gemma3ImageProcessorPil, squashed | pan),
        (SmolVLMImageProcessorPil, tiles),
    ]
    kind, sizes = kinds[draw.integers(len(kinds))]
    return kind(**sizes, **options)


@pytest.mark.parametrize("seed", range(25))
def test_random_processors_on_random_images(seed, tmp_path):
    draw = np.random.default_rng(seed)
    theirs = random_processor(draw)
    theirs.save_pretrained(tmp_path)
    ours = ImageProcessor.load(tmp_path)
    for _ in range(5):
        height, width = draw.integers(1, 400, 2)
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = theirs(PIL.fromarray(image), return_tensors="np")["pixel_values"]
        expected = np.moveaxis(expected.reshape(-1, *expected.shape[-3:]), 1, 3)
        np.testing.assert_array_equal(ours(image), expected)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 3), (2, 1)])
def test_the_text_of_an_image_is_that_of_transformers(rows, columns):
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

    sequence = "\n\n<start_of_image>" + 3 * "<image_soft_token>" + "<end_of_image>\n\n"
    names = SimpleNamespace(
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_tag="<global-img>",
        global_image_token="<global-img>",
        image_seq_len=3,
        full_image_sequence=sequence,
    )
    cut = {"rows": [[rows]], "cols": [[columns]], "num_crops": [rows * columns]}
    tiles, crops = ImageTokens(3, style="tiles"), ImageTokens(3, "<image_soft_token>", "crops")
    assert tiles.text(rows, columns) == Idefics3Processor.replace_image_token(names, cut, 0)
    assert tiles.text(rows, columns) == SmolVLMProcessor.replace_image_token(names, cut, 0)
    assert crops.text(rows, columns) == Gemma3Processor.replace_image_token(names, cut, 0)


@pytest.mark.parametrize(
    ("seconds", "rate"), [(0.04, 25), (3, 29.97), (12, 24), (64, 30), (65, 30), (70, 10), (700, 60)]
)
def test_the_frames_of_a_video_and_their_text_are_those_of_transformers(seconds, rate):
    pytest.importorskip("num2words")
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    from transformers.video_utils import VideoMetadata

    count = max(1, int(seconds * rate))
    for most in (1, 8, 64):
        metadata = VideoMetadata(total_num_frames=count, fps=rate, duration=count / rate)
        taken = SmolVLMVideoProcessor.sample_frames(None, metadata, num_frames=most, fps=1)
        assert frames_to_take(count, rate, most).tolist() == taken.tolist()
        metadata.frames_indices = taken.tolist()
        names = SimpleNamespace(
            fake_image_token="<fake_token_around_image>",
            image_token="<image>",
            global_image_token="<global-img>",
            image_seq_len=2,
        )
        inputs = {"pixel_values": np.zeros((1, len(taken))), "video_metadata": [metadata]}
        expected = SmolVLMProcessor.replace_video_token(names, inputs, 0)
        places = [index / rate for index in metadata.frames_indices]
        assert ImageTokens(2, style="tiles").video_text(places, count / rate) == expected
