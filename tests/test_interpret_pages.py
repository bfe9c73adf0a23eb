"""Pictures of what is found inside a model: figures, HTML, and the page of `kerasllm explain` in a browser."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from oracles import scramble

import kerasllm
from kerasllm import interpret
from kerasllm.interpret import drawings, fragments
from kerasllm.models import CausalLM, TransformerConfig
from kerasllm.tokenizers import Tokenizer

SCRIPTS = "the cat שלום سلام 你好 \U0001f642</script><b>\n"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([], kind="byte", progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = TransformerConfig.preset(
        "llama-laptop", vocab_size=tokenizer.vocab_size, num_layers=2, d_model=16, num_heads=2, dff=20, max_length=128
    )
    return scramble(CausalLM(config))


def test_tokens_can_be_read_in_any_script(tokenizer):
    words = Tokenizer.train(["שלום עולם 你好 cat cat 你好 שלום עולם"] * 3, vocab_size=400, progress=False)
    shown = interpret.token_texts(words, words.encode("cat שלום 你好é"))
    assert shown[0] == "cat" and "·שלום" in shown and shown[-2:] == ["‹C3›", "‹A9›"]
    assert interpret.token_texts(tokenizer, tokenizer.encode("a b\n")) == ["a", "·", "b", "↵"]
    assert interpret.token_texts(tokenizer, [tokenizer.end_id, *tokenizer.encode("\u200b")])[0] == "<|endoftext|>"
    characters = Tokenizer.train(["a\u200b\u0301"], kind="char", progress=False)
    assert interpret.token_texts(characters, characters.encode("\u200ba\u0301")) == ["U+200B", "a", "◌\u0301"]
    pieces = Tokenizer.train(["so be it"] * 3, vocab_size=40, kind="wordpiece", progress=False)
    assert "".join(interpret.token_texts(pieces, pieces.encode("so be"))).replace("·", "") == "sobe"


def test_what_is_drawn_needs_nothing_from_elsewhere(model, tokenizer):
    results = [
        interpret.logit_lens(model, tokenizer, SCRIPTS),
        interpret.attention(model, tokenizer, SCRIPTS),
        interpret.attribute_logit(model, np.array([tokenizer.encode("abc")])),
        interpret.head_scores(model, length=4),
    ]
    for result in results:
        text = result._repr_html_()
        assert not re.search(r"https?://|src=\"(?!data:)|<link|@import|url\(", text)
        assert text.count("<script") == text.count("</script>") and "<b>" not in text
        assert result.figure().canvas.get_width_height()[0] > 100
    assert results[1].figure(layer=1, head=1).axes and len(results[1].figure().axes) == 4


def test_colours_are_those_of_the_numbers():
    text = fragments.draw(drawings.HeatMap(np.array([[0.5, -1.0]]), ["row"], ["a", "<b>"], signed=True))
    assert "rgba(37,99,235,0.50)" in text and "rgba(220,38,38,1.00);color:#fff" in text
    assert "<bdi>&lt;b&gt;</bdi>" in text and 'title="-1.000"' in text
    text = fragments.draw(drawings.ColouredText(["x", "y"], np.array([[1.0, -2.0], [0.0, 0.1]]), ["p", "q"]))
    assert re.findall(r"rgba\([^)]*\)", text) == [
        *("rgba(37,99,235,0.50)", "rgba(220,38,38,1.00)", "rgba(37,99,235,0.00)", "rgba(37,99,235,1.00)")
    ]
    heads = drawings.AttentionView([interpret.AttentionMap("a", np.eye(2)[None], ["x", "y"], ["x", "y"])])
    assert re.search(r'"values": \["([^"]+)"', fragments.draw(heads))[1] == "/wAA/w=="  # 255, 0, 0, 255


def test_a_picture_is_saved_by_its_ending(model, tmp_path):
    found = interpret.head_scores(model, length=4)
    for ending, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")):
        found.save(tmp_path / f"scores{ending}")
        assert (tmp_path / f"scores{ending}").read_bytes().startswith(begin)
    with pytest.raises(ValueError, match=r"\.html, \.png, \.svg or \.pdf, got '.*x\.gif'"):
        found.save(tmp_path / "x.gif")


@pytest.mark.soak
def test_the_page_works_in_a_browser(model, tokenizer, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    kerasllm.save(model, tokenizer, tmp_path / "run")
    page_file = tmp_path / "why.html"
    command = [
        "explain",
        "--model",
        str(tmp_path / "run"),
        "--text",
        SCRIPTS,
        "--target",
        "ok",
        "--out",
        str(page_file),
    ]
    subprocess.run([sys.executable, "-m", "kerasllm", *command], cwd=ROOT, check=True)
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        problems, requests = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        headings = page.locator("h2").all_text_contents()
        assert headings[0] == "Which tokens meant most" and headings[-1] == "Where it looked"
        before = page.locator(".kl-head table").inner_html()
        box = page.locator(".kl-model").bounding_box()
        page.locator(".kl-model").click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
        assert page.locator(".kl-head p").inner_text() == "block_0/attention, head 1"
        assert page.locator(".kl-head table").inner_html() != before
        probabilities = interpret.attention(model, tokenizer, SCRIPTS, "ok")[0].probabilities[1]
        titles = page.locator(".kl-head td").evaluate_all("cells => cells.map(cell => Number(cell.title))")
        np.testing.assert_allclose(np.reshape(titles, probabilities.shape), probabilities, atol=0.008)
        browser.close()
    assert not problems and requests == [page_file.as_uri(), *[url for url in requests if url.startswith("data:")]]
