"""Images and videos in chats: what stands for them in the text of a template, and what is read of them in pieces."""

import io

import keras
import numpy as np
import pytest
from image_files import encoded, noise
from seeing import IMAGES_FIRST, IN_ORDER, STRINGS, chatting_tokenizer, seeing_model

import kerasllm
from kerasllm import data, interpret
from kerasllm.cli import chat, explain
from kerasllm.cli.arguments import parse
from kerasllm.generation.running_batch import RunningBatch
from kerasllm.images import ImageProcessor, ImageTokens, Tiling, Video, chat_prompt
from kerasllm.interpret.patch_saliency import _on_image
from kerasllm.tokenizers.chat_template import turn_end_id

PROCESSOR = ImageProcessor(8, mean=0, std=1, tokens=ImageTokens(3))
TILED = ImageProcessor(8, mean=0, std=1, tiles=Tiling(16), tokens=ImageTokens(2, style="tiles"))
UNCUT = ImageProcessor(8, mean=0, std=1, tiles=Tiling(8), tokens=ImageTokens(2, style="tiles"))
VIDEO = Video([np.full((8, 8, 3), shade, "uint8") for shade in (50, 60)], [0.0, 65.2], 70.0)


def flat(shade):
    return np.full((9, 9, 3), shade, "uint8")


def user(*parts):
    named = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": named}


def image(shade):
    return {"type": "image", "image": flat(shade)}


def read_back(tokenizer, prompt):
    return tokenizer.decode(prompt["token_ids"], skip_special=False)


def test_a_chat_of_several_turns_shows_its_images_in_their_places():
    tokenizer = chatting_tokenizer(IN_ORDER)
    chat = [user(image(10), "<image>?", image(20)), {"role": "assistant", "content": "yes"}, user(image(30), "what?")]
    prompt = chat_prompt(tokenizer, PROCESSOR, chat)
    three, end = "<image>" * 3, "<|endoftext|>"
    assert read_back(tokenizer, prompt) == f"u:{three}<image>?{three}{end}a:yes{end}u:{three}what?{end}a:"
    np.testing.assert_allclose(prompt["pixel_values"][:, 0, 0, 0] * 255, [10, 20, 30], rtol=1e-6)
    image_id = tokenizer.engine.token_to_id("<image>")
    assert prompt["token_ids"].count(image_id) == 9  # what a user writes is text
    assert turn_end_id(tokenizer) == tokenizer.end_id

    one = [user(image(10), "what?")]
    assert (
        chat_prompt(tokenizer, PROCESSOR, one)["token_ids"]
        == (data.image_prompt(tokenizer, PROCESSOR, flat(10), "what?")["token_ids"])
    )
    assert list(chat_prompt(tokenizer, PROCESSOR, [{"role": "user", "content": "hi"}])) == ["token_ids"]


def test_templates_of_families_are_told_apart():
    chat = [user("what? ", {"type": "video", "video": VIDEO}, image(70))]
    frames = UNCUT.tokens.video_text(VIDEO.seconds, VIDEO.duration)
    whole = UNCUT.image_text()
    tokenizer = chatting_tokenizer(IN_ORDER)
    prompt = chat_prompt(tokenizer, UNCUT, chat)
    assert read_back(tokenizer, prompt) == f"u:what? {frames}{whole}<|endoftext|>a:"
    np.testing.assert_allclose(prompt["pixel_values"][:, 0, 0, 0] * 255, [50, 60, 70], rtol=1e-6)

    tokenizer = chatting_tokenizer(IMAGES_FIRST)  # pixel values are in the order of their tokens
    prompt = chat_prompt(tokenizer, UNCUT, chat)
    assert read_back(tokenizer, prompt) == f"u:{whole}\nwhat? {frames}<|endoftext|>a:"
    np.testing.assert_allclose(prompt["pixel_values"][:, 0, 0, 0] * 255, [70, 50, 60], rtol=1e-6)

    tokenizer = chatting_tokenizer(STRINGS)
    prompt = chat_prompt(tokenizer, UNCUT, [user("what? ", {"type": "video", "video": VIDEO})])
    assert read_back(tokenizer, prompt) == f"u:what? {frames}<|endoftext|>a:"
    with pytest.raises(ValueError, match="has no place for images"):
        chat_prompt(tokenizer, UNCUT, [user(image(1))])
    tokenizer.chat_template = IN_ORDER.replace("<image>", "")
    with pytest.raises(ValueError, match="writes 0 of 1 images and videos: it should write <image>"):
        chat_prompt(tokenizer, UNCUT, [user(image(1))])
    with pytest.raises(TypeError, match="A part of a content is"):
        chat_prompt(tokenizer, UNCUT, [user({"type": "image_url", "image_url": "x"})])


def test_videos_are_learned_from_as_they_are_shown():
    tokenizer = chatting_tokenizer()
    chat = [user({"type": "image"}, {"type": "video"}), {"role": "assistant", "content": "grey"}]
    examples = [{"images": [encoded(noise(20, 20, 3)), VIDEO], "messages": chat}, {"images": [VIDEO], "text": "dark"}]
    (batch,) = data.image_text_dataset(examples, tokenizer, TILED, 320, 2, shuffle=False)
    inputs, labels, weight = batch
    assert inputs["pixel_values"].shape == (5 + 2 + 2, 8, 8, 3)
    np.testing.assert_allclose(inputs["pixel_values"][5:, 0, 0, 0] * 255, [50, 60] * 2, rtol=1e-6)
    learned = [tokenizer.decode(labels.numpy()[row][weight.numpy()[row] > 0]) for row in (0, 1)]
    assert learned == ["grey", "dark"]
    frames = TILED.tokens.video_text(VIDEO.seconds, VIDEO.duration)
    assert frames in tokenizer.decode(inputs["token_ids"].numpy()[0], skip_special=False)


@pytest.mark.parametrize("attention", ["image", pytest.param("causal", marks=pytest.mark.soak)])
def test_pictures_read_in_pieces_are_read_as_a_whole(attention, monkeypatch):
    monkeypatch.setattr("kerasllm.generation.prompt_reading.PIECES", (4, 7))  # cuts pictures, where they may be cut
    model, tokenizer = seeing_model(attention)
    first = [user(image(10), "what is it and what is it?", image(200))]
    prompt = chat_prompt(tokenizer, model.image_processor, first)
    batch = RunningBatch(model, most_rows=1)

    def read(prompt):
        reading = batch.begin(prompt["token_ids"], prompt["pixel_values"])
        while reading.read_piece():
            pass
        count = len(reading.ids) - 1
        whole = {**prompt, "token_ids": np.array([prompt["token_ids"][:-1]])}
        _, cache = model(whole, cache=model.init_cache(1, count, full=True), cache_index=0)
        for found, expected in zip(keras.tree.flatten(reading.cache), keras.tree.flatten(cache), strict=True):
            np.testing.assert_allclose(np.asarray(found)[:, :, :count], expected, atol=2e-5)
        return reading

    assert read(prompt).known == 0
    then = [*first, {"role": "assistant", "content": "red"}, user("and?", image(10))]
    assert read(chat_prompt(tokenizer, model.image_processor, then)).known == len(prompt["token_ids"]) - 1
    other = [user(image(11), "what is it and what is it?", image(200))]
    assert read(chat_prompt(tokenizer, model.image_processor, other)).known == 0  # of another picture nothing is known
    with pytest.raises(ValueError, match="ends with a text"):
        batch.begin(prompt["token_ids"][:6], prompt["pixel_values"][:1])
    with pytest.raises(TypeError, match="sees prompts whole"):
        RunningBatch(seeing_model("prefix")[0])


def test_attention_and_saliency_are_drawn_on_the_image():
    model, tokenizer = seeing_model("image")
    picture = np.full((8, 8, 3), 128, "uint8")
    picture[:4, 4:6] = 255  # of four patches the second one alone is not grey, which is nothing
    options = {"method": "gradient_x_input", "processor": ImageProcessor(8, mean=128 / 255, tokens=ImageTokens(4))}
    found = interpret.image_saliency(model, tokenizer, picture, "what?", "ab", **options)
    assert found.saliency.shape == found.attention.shape == (2, 2, 2) and found.text.targets == ["a", "b"]
    np.testing.assert_allclose(found.saliency[:, [0, 1, 1], [0, 0, 1]], 0, atol=1e-9)
    assert abs(found.saliency[:, 0, 1]).min() > 1e-4
    prompt = data.image_prompt(tokenizer, options["processor"], picture, "what?")
    ids = np.array([prompt["token_ids"]])
    without = interpret.image_saliency(model, tokenizer, picture, "what?", "ab", **{**options, "method": "occlusion"})
    (a,) = tokenizer.encode("a")
    pixels = [prompt["pixel_values"], 0 * prompt["pixel_values"]]
    with_it, grey = (model({"token_ids": ids, "pixel_values": one})[0, -1, a] for one in pixels)
    np.testing.assert_allclose(without.saliency[0], [[0, with_it - grey], [0, 0]], atol=1e-5)
    heads = interpret.activations(model, {**prompt, "token_ids": ids}, "probabilities", chunk_size=1000)
    mean = np.mean([array[0, :, -1].mean(0) for name, array in heads.items() if name.startswith("transformer/")], 0)
    np.testing.assert_allclose(found.attention[0].ravel(), mean[(ids == model.image_token_id)[0]], atol=1e-6)
    assert found.text.tokens.count("image") == 1 and len(found.text.tokens) == ids.shape[1] + 1 - 3
    assert found.html().count("data:image/png;base64,") == 2 * 3
    maps = interpret.attention(model, tokenizer, prompt)
    assert [one.name for one in maps] == ["block_0/attention", "block_1/attention"]
    parts = _on_image(np.arange(12.0)[None], 4, True, 1, 2)  # two tiles beside each other, and all of it
    np.testing.assert_array_equal(parts[0], [[0 + 4, 1 + 4, 4 + 4.5, 5 + 4.5], [2 + 5, 3 + 5, 6 + 5.5, 7 + 5.5]])
    with pytest.raises(ValueError, match="has no image_processor"):
        model.image_processor = None
        interpret.image_saliency(model, tokenizer, picture)


@pytest.mark.soak
def test_the_command_line_shows_images_and_goes_on_past_those_that_it_cannot(tmp_path, monkeypatch, capsys):
    model, tokenizer = seeing_model()
    kerasllm.save(model, tokenizer, tmp_path / "run")
    model.image_processor.save(tmp_path / "run")
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(9, 9, 3, seed=number)))
    lines = f"what is it?\n/image {tmp_path / 'none.png'}\n/image {tmp_path / '2.png'}\nand?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    given = ["chat", "--model", tmp_path / "run", "--image", tmp_path / "1.png", "--max-new-tokens", 8]
    arguments = parse(list(map(str, given)))
    chat.run(arguments)
    first = [user({"type": "image", "image": noise(9, 9, 3, seed=1)}, "what is it?")]
    answer = kerasllm.chat(model, tokenizer, first, 8)
    then = [*first, {"role": "assistant", "content": answer}]
    then.append(user({"type": "image", "image": noise(9, 9, 3, seed=2)}, "and?"))
    written = capsys.readouterr()
    assert written.out.split("\n")[:2] == [answer, kerasllm.chat(model, tokenizer, then, 8)]
    assert "There is no image file" in written.err

    given = ["explain", "--model", tmp_path / "run", "--image", tmp_path / "1.png", "--text", "what?", "--target", "ab"]
    given += ["--method", "gradient_x_input", "--out", tmp_path / "why.html"]
    explain.run(parse(list(map(str, given))))
    assert (tmp_path / "why.html").read_text().count("data:image/png;base64,") == 2 * 3
    options = {"processor": model.image_processor, "method": "gradient_x_input"}
    found = interpret.image_saliency(model, tokenizer, tmp_path / "1.png", "what?", **options)
    assert len(found.figure().axes) == 3
