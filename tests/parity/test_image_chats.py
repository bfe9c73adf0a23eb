"""Chats with images beside transformers' processors: the same ids, and the same pixel values."""

import dataclasses

import numpy as np
import pytest
from seeing import IMAGES_FIRST, IN_ORDER, chatting_tokenizer

from kerasllm.images import ImageProcessor, ImageTokens, chat_prompt

PIL = pytest.importorskip("PIL.Image")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

draw = np.random.default_rng(0)
IMAGES = [PIL.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((20, 30), (9, 9), (40, 11))]
CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": IMAGES[0]},
            {"type": "image", "image": IMAGES[1]},
            {"type": "text", "text": "what is it?"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "image", "image": IMAGES[2]}]},
]

TOKENS = ["<|im_start|>", "<end_of_utterance>", "<start_of_image>", "<image_soft_token>", "<end_of_image>"]
STYLES = {
    "idefics3": ImageTokens(4, style="tiles"),
    "gemma3": ImageTokens(4, "<image_soft_token>", "crops"),
}


def processors(name, tokenizer):
    """transformers' processor of a family, and ours."""
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.engine, eos_token="<|endoftext|>")
    if name == "llava":
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
        from transformers.models.llava.processing_llava import LlavaProcessor

        images = LlavaImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        options = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return images, LlavaProcessor(images, fast, chat_template=IMAGES_FIRST, image_token="<image>", **options)
    if name == "gemma3":
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
        from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

        images = Gemma3ImageProcessorPil(size={"height": 8, "width": 8})
        names = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.engine, extra_special_tokens=names)
        template = IN_ORDER.replace("<image>", "<start_of_image>").replace("{{ eos_token }}", "<end_of_utterance>")
        return images, Gemma3Processor(images, fast, chat_template=template, image_seq_length=4)
    # SmolVLM's is of the same kind, and has a processor of videos besides, which needs torchvision.
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    images = Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 8})
    return images, Idefics3Processor(images, fast, image_seq_len=4, chat_template=DEFAULT_CHAT_TEMPLATE)


@pytest.mark.parametrize("name", ["idefics3", "llava", "gemma3"])
def test_chats_are_those_of_transformers(name, tmp_path):
    tokenizer = chatting_tokenizer(more=TOKENS)
    images, theirs = processors(name, tokenizer)
    tokenizer.chat_template = theirs.chat_template
    text = theirs.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    expected = theirs(text=[text], images=[IMAGES], return_tensors="np", add_special_tokens=False)
    images.save_pretrained(tmp_path)
    kind = STYLES.get(name, ImageTokens(4))
    ours = dataclasses.replace(ImageProcessor.load(tmp_path), tokens=kind)
    found = chat_prompt(tokenizer, ours, CHAT)
    assert found["token_ids"] == expected["input_ids"][0].tolist()
    pixels = expected["pixel_values"].reshape(-1, 3, 8, 8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found["pixel_values"], pixels)
