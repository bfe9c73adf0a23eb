"""Images in the chats of `kerasllm serve`, as OpenAI's client sends them."""

import base64
import json

import httpx
import numpy as np
import pytest
from image_files import encoded, noise, png
from seeing import seeing_model

import kerasllm
from kerasllm.models import CausalLM, TransformerConfig

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


def address(data, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def part(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def asked(*parts, text="what is it?"):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def served(model, tokenizer):
    from kerasllm.serving.served_models import served_model

    return served_model(model, tokenizer, rows=2)


@pytest.fixture(scope="module")
def seeing():
    model, tokenizer = seeing_model(max_length=64)
    return model, tokenizer, served(model, tokenizer)


def refusal(model, messages, **more):
    """What a model says to a request that it does not answer."""
    from kerasllm.serving import protocol

    with pytest.raises(protocol.BadRequest) as found:
        model.chat_job(protocol.read(protocol.ChatRequest, json.dumps({"messages": messages, **more}).encode()))
    assert found.value.status == 400
    return found.value.message


def test_images_that_cannot_be_had_are_refused_in_a_sentence(seeing):
    model = seeing[2]
    fetched = "An image is given as a data URL, data:image/png;base64,…: other addresses are not fetched."
    for url in (
        *("https://example.com/a.png", "http://127.0.0.1:1/", "file:///etc/passwd", "/etc/passwd", "", "data:,x"),
        *("data:image/png,abc", "data:text/html;base64,YQ==", "data:image/svg+xml;base64,YQ==", address(b"x") + "!"),
    ):
        assert refusal(model, asked(part(url))) == fetched
    picture = part(address(encoded(noise(9, 9, 3))))
    assert "This image is no PNG" in refusal(model, asked(part(address(b"no image"))))
    assert "cut short" in refusal(model, asked(part(address(encoded(noise(9, 9, 3))[:-9]))))
    assert "at most 67,108,864 are decoded" in refusal(model, asked(part(address(png(9_000, 9_000)))))
    assert "has room for 16 images at most, got 17" in refusal(model, asked(*[picture] * 17))
    assert "does not fit the context of 64" in refusal(model, asked(*[picture] * 16))
    assert "judged by texts alone" in refusal(model, asked(picture), candidates=2)
    assert "does not match any of the expected tags" in refusal(model, asked({"type": "input_audio", "audio": "x"}))
    blind = CausalLM(TransformerConfig(seeing[1].vocab_size, 1, 16, 2, 24, max_length=32))
    assert "it reads texts alone: leave them out" in refusal(served(blind, seeing[1]), asked(picture))


@pytest.mark.soak
def test_the_client_gets_what_the_model_writes_of_images(seeing):
    from test_serving import running

    from kerasllm.serving.app import make_app

    model, tokenizer, serving = seeing
    images = [noise(9, 9, 3, seed=seed) for seed in (1, 2)]
    sent = [part(address(encoded(images[0]))), part(address(encoded(images[1], "WEBP", lossless=True), "webp"))]
    first = asked(sent[0])
    then = [*first, {"role": "assistant", "content": "no"}, *asked(sent[1], text="and?")]
    plain = [{"type": "image", "image": image} for image in images]
    chats = [asked(plain[0]), asked(plain[1])]
    chats.insert(1, [*chats[0], {"role": "assistant", "content": "no"}, *asked(plain[1], text="and?")])
    expected = [kerasllm.chat(model, tokenizer, chat, 12) for chat in chats]
    assert len(set(expected)) == 3
    with (
        running(make_app({"seeing": serving}, most_bytes=2**16)) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client,
    ):
        create = client.chat.completions.create
        options = {"model": "seeing", "max_tokens": 12, "temperature": 0}
        for messages, text in zip((first, then, asked(sent[1])), expected, strict=True):
            answer = create(messages=messages, **options)
            assert answer.choices[0].message.content == text
        # What was read of pictures is known again, and of others is not.
        again = create(messages=then, **options)
        known = again.usage.prompt_tokens_details.cached_tokens
        assert again.choices[0].message.content == expected[1] and known == again.usage.prompt_tokens - 1
        chunks = list(create(messages=then, stream=True, **options))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected[1]
        both = create(messages=first, **{**options, "temperature": 1.0}, n=2, seed=5)
        drawn = kerasllm.chat(model, tokenizer, asked(plain[0]), 12, temperature=1.0, seed=5)
        assert both.choices[0].message.content == drawn
        with pytest.raises(openai.BadRequestError, match="other addresses are not fetched"):
            create(messages=asked(part("https://example.com/a.png")), **options)
        large = asked(part(address(np.random.default_rng(0).bytes(2**16))))
        assert httpx.post(url + "/v1/chat/completions", json={"messages": large}).status_code == 413
