"""`kerasllm serve` as OpenAI's own client knows it, and as those who mean it no good do."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT

import kerasllm
from kerasllm.generation.rows import RowSettings
from kerasllm.models import CausalLM, TextEmbedder, TransformerConfig
from kerasllm.serving.engine import Engine, QueueFull, Request

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
)
KEY = "secret"
ASKED = [{"role": "user", "content": "The fox"}]
HELD = {"model": "tiny", "messages": ASKED}
ANSWERED = [*ASKED, {"role": "assistant", "content": "said"}]


@pytest.fixture(scope="module")
def tiny():
    text = ["The class of a thing is what the thing is an instance of, said the quick fox." * 20]
    text.append(" UNSAFE SENSIBLE SPECIFIC INTERESTING 01")
    tokenizer = kerasllm.tokenizers.Tokenizer.train(text, kind="char", progress=False)
    tokenizer.chat_template = TEMPLATE
    config = TransformerConfig(tokenizer.vocab_size, 2, 32, 4, 64, max_length=128)
    model = CausalLM(config)
    for seed, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape) * 0.3)
    return model, tokenizer


@pytest.fixture(scope="module")
def server(tiny):
    """Models, the address under which they are served, and the server."""
    from kerasllm.serving.app import make_app
    from kerasllm.serving.served_models import served_model

    model, tokenizer = tiny
    embedder = TextEmbedder(TransformerConfig(tokenizer.vocab_size, 1, 16, 2, 32, max_length=32), width=8)
    served = {"tiny": served_model(model, tokenizer, rows=4, queue=64), "vectors": served_model(embedder, tokenizer)}
    with running(make_app(served, api_key=KEY, most_bytes=10_000)) as address:
        yield served, address, embedder


@contextlib.contextmanager
def running(app):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server[1] + "/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_the_client_gets_what_the_model_writes(server, client, tiny):
    model, tokenizer = tiny
    assert [each.id for each in client.models.list()] == ["tiny", "vectors"]
    assert client.models.retrieve("tiny").id == "tiny"
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 12}

    greedy = client.chat.completions.create(**asked, temperature=0, logprobs=True, top_logprobs=2)
    (choice,) = greedy.choices
    written = kerasllm.chat(model, tokenizer, ASKED, 12)
    assert (choice.message.content, choice.finish_reason) == (written, "length")
    prompt_ids = tokenizer.encode_chat(ASKED)
    assert (greedy.usage.prompt_tokens, greedy.usage.completion_tokens) == (len(prompt_ids), 12)
    assert "".join(token.token for token in choice.logprobs.content if "<|" not in token.token) == written
    logits = np.asarray(model(np.array(prompt_ids, "int32")[None]))[0, -1].astype("float64")
    expected = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
    first = choice.logprobs.content[0]
    assert first.logprob == first.top_logprobs[0].logprob
    np.testing.assert_allclose([top.logprob for top in first.top_logprobs], expected[:2], atol=1e-4)

    chunks = list(
        client.chat.completions.create(**asked, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == written
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["length"]
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == len(prompt_ids) - 1

    drawn = client.completions.create(
        model="tiny", prompt=["The fox", "A"], n=2, max_tokens=10, seed=3, temperature=1.5
    )
    options = {"sampler": "random", "temperature": 1.5}
    for prompt, texts in zip(("The fox", "A"), (drawn.choices[:2], drawn.choices[2:]), strict=True):
        of_generate = [kerasllm.generate(model, tokenizer, prompt, 10, seed=seed, **options) for seed in (3, 4)]
        assert [text.text for text in texts] == of_generate
    assert [choice.index for choice in drawn.choices] == [0, 1, 2, 3]

    whole = kerasllm.generate(model, tokenizer, "The fox", 30)
    stop = whole[4:6]
    ended = client.completions.create(
        model="tiny", prompt="The fox", max_tokens=30, temperature=0, stop=[stop], logprobs=1
    )
    (choice,) = ended.choices
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert len(choice.logprobs.tokens) < 12 and len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)

    texts = ["a fox", "the thing"]
    vectors = client.embeddings.create(model="vectors", input=texts)
    np.testing.assert_allclose(
        [each.embedding for each in vectors.data], kerasllm.embed(server[2], tokenizer, texts), rtol=1e-5
    )
    plain = client.embeddings.create(model="vectors", input=texts[0], encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, vectors.data[0].embedding, rtol=1e-5)


def of_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_answers_are_held_to_a_schema_beside_others(tiny, client):
    free = {**HELD, "max_tokens": 40, "temperature": 0}
    held = {**HELD, "n": 3, "seed": 1, "temperature": 2.0, "response_format": of_schema({"enum": [None, False]})}
    with ThreadPoolExecutor(2) as pool:
        beside = pool.submit(client.chat.completions.create, **free)
        answer = client.chat.completions.create(**held)
        assert beside.result().choices[0].message.content == kerasllm.chat(*tiny, ASKED, 40)
    assert {choice.message.content for choice in answer.choices} <= {"null", "false"}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    pieces = client.chat.completions.create(**{**held, "n": 1}, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer.choices[0].message.content


@pytest.mark.soak
def test_the_best_of_candidates_is_the_answer(client, tiny):
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "seed": 3}
    drawn = {choice.message.content.strip() for choice in client.chat.completions.create(**asked, n=4).choices}
    best_of = {"candidates": 4, "min_safety": 0.0}
    (choice,) = client.chat.completions.create(**asked, extra_body=best_of).choices
    found, scores = choice.candidates, [one["score"] for one in choice.candidates]
    assert {one["text"] for one in found} == drawn and scores == sorted(scores, reverse=True)
    assert choice.message.content == found[0]["text"] and choice.finish_reason == "length"
    for one in found:
        ratings = kerasllm.dialogue.rate(*tiny, [*ASKED, {"role": "assistant", "content": one["text"]}])
        np.testing.assert_allclose(list(one["ratings"].values()), ratings, rtol=1e-3)
    chunks = list(client.chat.completions.create(**asked, extra_body=best_of, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert [one["text"] for one in chunks[-1].choices[0].candidates] == [one["text"] for one in found]
    (none,) = client.chat.completions.create(**asked, extra_body={"candidates": 2, "min_safety": 1.0}).choices
    assert none.message.content == "I am not sure what to say to that." and none.candidates[0]["score"] is None


def test_what_cannot_be_answered_is_refused_in_openais_form(server, client):
    chat, text = client.chat.completions.create, client.completions.create
    for status, named, call in (
        (404, "no model 'other'", lambda: chat(model="other", messages=ASKED)),
        (400, "temperature", lambda: chat(model="tiny", messages=ASKED, temperature=9)),
        (400, "frequency_penalty", lambda: chat(model="tiny", messages=ASKED, frequency_penalty=1.0)),
        (400, "vocabulary has no token", lambda: chat(**HELD, response_format={"type": "json_object"})),
        (400, "Invalid type", lambda: chat(**HELD, response_format=of_schema({"type": "any"}))),
        (400, "lacks `json_schema.schema`", lambda: chat(**HELD, response_format={"type": "json_schema"})),
        (400, "context of 128", lambda: chat(model="tiny", messages=ASKED, max_tokens=200)),
        (400, "up to 4", lambda: chat(model="tiny", messages=ASKED, n=5)),
        (400, "`candidates` may be up to 4", lambda: chat(model="tiny", messages=ASKED, extra_body={"candidates": 5})),
        (400, "`n` is not supported", lambda: chat(model="tiny", messages=ASKED, n=2, extra_body={"candidates": 2})),
        (400, "must be the user's", lambda: chat(model="tiny", messages=ANSWERED, extra_body={"candidates": 2})),
        (400, "1 to 4 texts", lambda: text(model="tiny", prompt=["a"] * 5)),
        (400, "no token 9999", lambda: text(model="tiny", prompt=[9999])),
        (400, "embeddings alone", lambda: chat(model="vectors", messages=ASKED)),
        (400, "no embeddings", lambda: client.embeddings.create(model="tiny", input="a")),
        (413, "10000 bytes", lambda: text(model="tiny", prompt="a" * 10_001)),
        (401, "API key", lambda: client.with_options(api_key="wrong").models.list()),
    ):
        with pytest.raises(openai.APIStatusError, match=named) as refused:
            call()
        assert refused.value.status_code == status
    assert httpx.get(server[1] + "/v1/nothing", headers={"Authorization": f"Bearer {KEY}"}).status_code == 404
    plain = httpx.post(server[1] + "/v1/completions", content="{}", headers={"Authorization": f"Bearer {KEY}"})
    assert plain.status_code == 415, "what a browser sends for any page"


MALFORMED = [
    *(b"", b"null", b"[]", b"{", b'"', b"\xff\xfe", b'{"messages": "x"}', b'{"messages": []}', b"[" * 9_000),
    *(b'{"messages": [{"role": "user"}]}', b'{"messages": [{"role": 1, "content": "x"}]}', b'{"a": 1' + b"0" * 5_000),
    *(b'{"prompt": null}', b'{"prompt": {}}', b'{"prompt": [[]]}', b'{"prompt": [-1]}', b'{"prompt": [1e9]}'),
    *(b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "x", "n": true}', b'{"prompt": "\\ud800"}'),
    *(b'{"prompt": "x", "stop": ""}', b'{"prompt": "x", "stop": [1]}', b'{"prompt": "x", "max_tokens": "5"}'),
    *(b'{"prompt": "x", "seed": 99999999999999999999}', b'{"prompt": "x", "stream_options": 1}', b'{"input": 1}'),
    b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]}',
]


@pytest.mark.parametrize("count", [30, pytest.param(1_000, marks=pytest.mark.soak)])
def test_a_malformed_body_gives_a_4xx(server, capfd, count):
    paths = ("chat/completions", "completions", "embeddings")
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    draw = random.Random(0)
    good = {"model": "tiny", "messages": ASKED, "prompt": "The fox", "input": "a", "max_tokens": 4, "stop": ["x"]}
    with httpx.Client(base_url=server[1] + "/v1/", headers=headers) as client:
        for number in range(count):
            body = bytearray(MALFORMED[number % len(MALFORMED)])
            if number >= len(MALFORMED):  # a good one, damaged where it no longer can be one
                body = bytearray(json.dumps(good).encode())
                kind = draw.randrange(3)
                if kind == 0:
                    del body[draw.randrange(len(body) - 1) :]
                elif kind == 1:
                    body[draw.randrange(len(body))] = draw.choice(b"\x00\x01\xff")
                else:
                    body += draw.choice([b"}", b"]", b"{}", b"\x00", b",", b"1"])
            answer = client.post(paths[number % 3], content=bytes(body))
            assert 400 <= answer.status_code < 500, (bytes(body), answer.text)
            assert answer.json()["error"]["message"]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_one_who_leaves_frees_the_row_and_past_the_queue_is_429(server, client, monkeypatch):
    engine = server[0]["tiny"].engine
    slow = engine._batch.run

    def run(steps):
        time.sleep(0.05)
        return slow(1)

    monkeypatch.setattr(engine._batch, "run", run)
    asked = {"model": "tiny", "prompt": "The fox", "max_tokens": 50, "temperature": 0}
    stream = client.completions.create(**asked, stream=True, n=4)
    next(iter(stream))
    assert engine.num_running == 4
    monkeypatch.setattr(engine, "_queue_size", 0)
    with pytest.raises(openai.RateLimitError, match="waiting already"):
        client.completions.create(**asked)
    stream.close()
    wait_until(lambda: engine.num_running == 0)
    monkeypatch.setattr(engine, "_queue_size", 9)
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(**asked, timeout=0.4)
    wait_until(lambda: engine.num_running == 0)
    monkeypatch.setattr(engine, "_seconds", 0.4)
    (cut,) = client.completions.create(**asked).choices
    assert cut.finish_reason == "length"
    assert 0 < len(cut.text) < 50


def wait_until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_after_a_failure_others_are_served(client, server, monkeypatch, capfd):
    engine = server[0]["tiny"].engine

    def fail(steps):
        raise RuntimeError("out of memory")

    asked = {"model": "tiny", "prompt": "The fox", "max_tokens": 5, "temperature": 0}
    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "run", fail)
        with pytest.raises(openai.InternalServerError, match="The model failed"):
            client.completions.create(**asked)
    assert "out of memory" in capfd.readouterr().err
    assert client.completions.create(**asked).usage.completion_tokens == 5


def test_those_who_wait_are_told_when_the_engine_stops(tiny):
    engine, told = Engine(*tiny, queue=1), []
    request = Request([1, 2], [RowSettings(5)], [], told.append)
    engine.submit(request)
    with pytest.raises(QueueFull, match="1 requests are waiting"):
        engine.submit(Request([1], [RowSettings(5)], [], told.append))
    engine._stops = True
    engine.start()
    engine.stop()
    assert str(told[0]) == "The server is stopping."


def test_the_page_and_the_metrics(server):
    page = httpx.get(server[1])
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace('http-equiv="', ""), "nothing is loaded from elsewhere"
    metrics = httpx.get(server[1] + "/metrics").text
    assert 'kerasllm_requests_total{path="/v1/completions",status="200"}' in metrics
    assert "kerasllm_running 0.0" in metrics


@pytest.mark.soak
def test_sigterm_lets_those_finish_who_are_being_answered(tiny, tmp_path):
    kerasllm.save(*tiny, tmp_path / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "kerasllm", "serve", str(tmp_path / "tiny"), "--port", str(port), "--rows", "4"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "Serving tiny" in process.stdout.readline()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=5)
        client.models.list()
        answers = []

        def ask():
            asked = {"model": "tiny", "prompt": "The fox", "max_tokens": 50, "temperature": 0}
            answers.append(client.completions.create(**asked).choices[0])

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()
    assert len({answer.text for answer in answers}) == 1
    assert len(answers) == 12


@pytest.mark.soak
@pytest.mark.optimised
def test_many_clients_at_once(tiny):
    """For 5 s one after another, and for 20 s 32 at once. With `KERASLLM_SECONDS`, to be given where nothing else runs,
    it is for so many in place of 20, and 32 are three times as quick."""
    from kerasllm.serving.app import make_app
    from kerasllm.serving.served_models import served_model

    _, tokenizer = tiny
    # Weights as many as GPT-2's: a step of one text reads them all, and a step of 32 once for them together.
    model = CausalLM(TransformerConfig(tokenizer.vocab_size, 12, 768, 12, 3072, max_length=256))
    prompts = [text[:length] for text in ("The class of a thing", "said the quick fox") for length in range(1, 17)]
    expected = [kerasllm.generate(model, tokenizer, prompt, 40, seed=7, temperature=0.7) for prompt in prompts]
    seconds, wrong = float(os.environ.get("KERASLLM_SECONDS", "20")), []
    with running(make_app({"m": served_model(model, tokenizer, rows=32)})) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="x", max_retries=0, timeout=120)

        def ask(number):
            asked = {"model": "m", "prompt": prompts[number], "max_tokens": 40, "temperature": 0.7, "seed": 7}
            stream = client.completions.create(**asked, stream=True)
            if (text := "".join(chunk.choices[0].text for chunk in stream)) != expected[number]:
                wrong.append((number, text))

        def ask_for(seconds, number):
            end, count = time.monotonic() + seconds, 0
            while time.monotonic() < end:
                ask((number + count) % 32)
                count += 1
            return count

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(ask, range(32)))  # which compiles
            alone = 4 * ask_for(seconds / 4, 0)
            list(pool.map(ask_for, [seconds / 4] * 32, range(32)))
            before = resident_bytes()
            together = sum(pool.map(ask_for, [seconds] * 32, range(32)))
    assert not wrong
    if "KERASLLM_SECONDS" in os.environ:
        assert together >= 3 * alone, (together, alone)
    assert resident_bytes() < 1.1 * before


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
def test_the_page_in_a_browser(server):
    """What is typed is answered as it comes, and stopped; nothing comes from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("There is no Chromium.")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, asked, errors = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(server[1])
        page.fill("#key", KEY)
        page.press("#key", "Tab")
        playwright.expect(page.locator("#model option")).to_have_count(2)
        page.fill("#temperature", "0")
        page.fill("#max_tokens", "12")
        page.fill("#text", "The fox")
        page.press("#text", "Enter")
        playwright.expect(page.locator("#send")).to_be_enabled(timeout=60_000)
        written = kerasllm.chat(server[0]["tiny"].engine._batch.model, server[0]["tiny"].tokenizer, ASKED, 12)
        assert page.locator(".assistant").text_content() == written

        page.fill("#temperature", "1")
        page.fill("#candidates", "3")
        page.fill("#min_safety", "0")
        page.fill("#text", "A thing")
        page.press("#text", "Enter")
        playwright.expect(page.locator("summary")).to_have_text("3 candidates", timeout=60_000)
        playwright.expect(page.locator("#send")).to_be_enabled()
        assert page.locator("td").first.is_hidden()
        page.click("summary")
        assert page.locator("tr").count() == 4
        assert page.locator("td").nth(5).text_content() == page.locator(".assistant").last.text_content()
        browser.close()
    assert not errors
    assert all(url.startswith(server[1]) for url in asked)


class Running:
    """A served model that runs already."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return (lambda: None) if name in ("start", "stop") else getattr(self.model, name)


def test_what_a_filter_has_not_judged_is_not_sent(tiny, server):
    """Judges are slow, and the model is not: what it writes meanwhile waits."""
    from kerasllm.safety import Decision, Filter
    from kerasllm.serving.app import make_app

    model, tokenizer = tiny
    written = kerasllm.generate(model, tokenizer, "The fox", 30)
    decisions, unsafe = [], {"said": "a bad prompt", "written": written[10:14]}

    def judge(messages):
        time.sleep(0.2 if messages[-1]["role"] == "assistant" else 0)
        return any(text in messages[-1]["content"] for text in unsafe.values())

    def decided(decision: Decision):
        decisions.append((time.monotonic(), decision))

    served = {"tiny": Running(server[0]["tiny"])}
    app = make_app(served, filter=Filter(judge, answer="No.", log=decided))
    asked = {"model": "tiny", "max_tokens": 30, "temperature": 0}
    with running(app) as address, openai.OpenAI(base_url=address + "/v1", api_key="x", max_retries=0) as client:
        pieces = client.completions.create(**asked, prompt="The fox", stream=True)
        text, first = "", None
        for piece in pieces:
            first = first or (piece.choices[0].text and time.monotonic())
            text += piece.choices[0].text
        assert text == "No." and piece.choices[0].finish_reason == "content_filter"
        assert first > decisions[-1][0] and decisions[-1][1].refused and decisions[-1][1].text == written
        whole = client.completions.create(**asked, prompt=["a bad prompt", "The fox"], n=2)
        assert [choice.text for choice in whole.choices] == ["No."] * 4
        before = len(decisions)
        (choice,) = client.chat.completions.create(
            **asked, messages=[{"role": "user", "content": "a bad prompt"}]
        ).choices
        assert (choice.message.content, choice.finish_reason, len(decisions)) == ("No.", "content_filter", before + 1)
        unsafe["written"] = "never"
        mixed = client.completions.create(**asked, prompt=["a bad prompt", "The fox"], logprobs=1)
        assert [choice.text for choice in mixed.choices] == ["No.", written]
        assert [len(choice.logprobs.tokens) for choice in mixed.choices] == [0, 30]
        unsafe["said"] = None  # the judge fails
        with pytest.raises(openai.InternalServerError):
            client.completions.create(**asked, prompt="The fox")
    wait_until(lambda: served["tiny"].engine.num_running == 0)
