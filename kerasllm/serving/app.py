"""The HTTP side: OpenAI's addresses over engines, with bounds, metrics and a page to chat on."""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import hmac
import json
import time
from pathlib import Path

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from kerasllm.serving import answers, protocol
from kerasllm.serving.engine import Piece, QueueFull, RequestFailed
from kerasllm.serving.filtered_pieces import FilteredPieces, hold_back
from kerasllm.serving.metrics import Metrics
from kerasllm.serving.protocol import BadRequest

SECONDS_BETWEEN_LOOKS = 0.25  # whether the client is still there
PAGE = Path(__file__).parent / "page.html"
PAGE_MAY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def make_app(served, *, api_key=None, most_bytes=2**20, allowed_hosts=None, filter=None):
    """The application.

    Args:
        served: dict from names of models to `ServedModel`s, the first of which answers where a request names none.
        api_key: str or None, what requests to `/v1` have to bring.
        most_bytes: int, of a request's body.
        allowed_hosts: list of str or None, the names under which it may be called.
        filter: `kerasllm.safety.Filter`, of prompts and of texts, or None.

    Returns:
        FastAPI.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app):
        for model in served.values():
            model.start()
        yield
        for model in served.values():
            await asyncio.to_thread(model.stop)

    # Its own pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="kerasllm", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    if allowed_hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts)
    metrics = Metrics(served)
    created = int(time.time())

    @app.exception_handler(BadRequest)
    async def bad_request(request, error):
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        return _error(error.status, error.message, kind, error.param, error.code)

    @app.exception_handler(HTTPException)
    async def no_such_page(request, error):
        return _error(error.status_code, f"{error.detail}.", "invalid_request_error")

    @app.exception_handler(Exception)
    async def failed(request, error):
        return _error(500, "The server failed; its log says how.", "server_error")

    app.add_middleware(_Gate, api_key=api_key, metrics=metrics)

    async def body_of(request, kind):
        """The body as a request of that kind, and the model that is to answer it."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A page elsewhere can have a browser send anything else without asking whether it may.
            raise BadRequest("The body must be JSON, with the header `Content-Type: application/json`.", status=415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most_bytes:
                raise BadRequest(f"The body is longer than {most_bytes} bytes.", status=413)
        asked = protocol.read(kind, bytes(body))
        name = asked.model or next(iter(served))
        if name not in served:
            found = ", ".join(served)
            raise BadRequest(f"There is no model {name!r}, only {found}.", "model", "model_not_found", 404)
        return asked, name, served[name]

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [_model(name, created) for name in served]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str):
        if name not in served:
            raise BadRequest(f"There is no model {name!r}.", "model", "model_not_found", 404)
        return _model(name, created)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: HttpRequest):
        asked, name, model = await body_of(request, protocol.ChatRequest)
        jobs = [await asyncio.to_thread(model.chat_job, asked)]
        said = [[message.plain() for message in asked.messages]]
        num_top = (asked.top_logprobs or 0) if asked.logprobs else None
        form = answers.Chat(name, num_top, model.token_text)
        choose = None if asked.candidates is None else functools.partial(model.choose, asked)
        return await answer(request, asked, model, jobs, form, said, choose)

    @app.post("/v1/completions")
    async def completions(request: HttpRequest):
        asked, name, model = await body_of(request, protocol.CompletionRequest)
        jobs = await asyncio.to_thread(model.completion_jobs, asked)
        said = [[{"role": "user", "content": text}] for text in model.prompt_texts(asked)]
        form = answers.Completion(name, asked.logprobs, model.token_text)
        return await answer(request, asked, model, jobs, form, said)

    @app.post("/v1/embeddings")
    async def embeddings(request: HttpRequest):
        asked, name, model = await body_of(request, protocol.EmbeddingRequest)
        vectors, num_tokens = await asyncio.to_thread(model.embed, asked)
        if asked.encoding_format == "base64":
            rows = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            rows = vectors.tolist()
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        used = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": name, "usage": used}

    async def answer(request, asked, model, jobs, form, said, choose=None):
        """The answer to a request, whole or as a stream; the text that is chosen, where one is.

        Args:
            jobs: list of functions, see `_Pieces`.
            said: list of messages, one for each job.
        """
        texts = 1 if choose else asked.num_texts[1]  # of each job
        if filter is not None:
            held = await hold_back(filter, said, texts)
            numbers = [number for number, one in enumerate(held) if not one.refused]
            jobs = [job for job, one in zip(jobs, held[::texts], strict=True) if not one.refused]
        pieces = _Chosen(choose, model.engine, jobs) if choose and jobs else _Pieces(model.engine, jobs)
        if filter is not None:
            pieces = FilteredPieces(pieces, held, numbers)
        if not asked.stream:
            return await _whole_answer(request, pieces, form, metrics)
        first = await pieces.next(request)  # so that what fails at once has a status that says so
        wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = _events(pieces, first, form, wants_usage, metrics)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.get("/metrics")
    async def show_metrics():
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page():
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_MAY})

    return app


class _Gate:
    """Lets through to `/v1` those who bring the key, and counts them."""

    def __init__(self, app, api_key, metrics):
        self._app, self._metrics = app, metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        app = self._app
        if self._key is not None and not hmac.compare_digest(given, self._key):
            app = _error(401, "The API key is wrong or missing.", "invalid_request_error", code="invalid_api_key")
        with self._metrics.request(scope["path"]) as seen:

            async def send_seen(message):
                seen.status = message.get("status", seen.status)
                await send(message)

            await app(scope, receive, send_seen)


class _Pieces:
    """The pieces of all texts that jobs (`engine.Request`s) ask for, as they come.

    Args:
        engine: Engine.
        jobs: list of functions (tell) -> `engine.Request`.
    """

    def __init__(self, engine, jobs):
        self._queue, loop = asyncio.Queue(), asyncio.get_running_loop()
        self.began = time.monotonic()
        self.requests, self._left = [], 0

        def teller(before):
            def tell(piece):
                with contextlib.suppress(RuntimeError):  # The loop has ended, and nobody listens.
                    loop.call_soon_threadsafe(self._queue.put_nowait, (before, piece))

            return tell

        try:
            for job in jobs:
                request = job(teller(self._left))
                engine.submit(request)
                self.requests.append(request)
                self._left += len(request.settings)
        except QueueFull as full:
            self.cancel()
            raise BadRequest(str(full), code="queue_full", status=429) from None
        except RequestFailed as failed:
            self.cancel()
            raise BadRequest(str(failed), status=503) from None
        self.num_texts, self.num_tokens = self._left, [0] * self._left

    async def next(self, request=None):
        """The next `Piece`, or None after the last.

        Args:
            request: HTTP request or None. Where its client has gone, nothing more is made for it.

        Raises:
            BadRequest: if there will be no answer.
        """
        while self._left:
            try:
                before, piece = await asyncio.wait_for(self._queue.get(), SECONDS_BETWEEN_LOOKS)
            except TimeoutError:
                if request is not None and await request.is_disconnected():
                    self.cancel()
                    raise BadRequest("The client has gone.", status=499) from None
                continue
            except asyncio.CancelledError:
                self.cancel()
                raise
            if isinstance(piece, Piece):
                self._left -= piece.finish_reason is not None
                self.num_tokens[before + piece.index] = piece.num_tokens
                return dataclasses.replace(piece, index=before + piece.index)
            self.cancel()
            raise BadRequest(str(piece), status=503)
        return None

    def cancel(self):
        for request in self.requests:
            request.cancelled = True

    def usage(self):
        known = sum(request.num_known for request in self.requests)
        return answers.usage(sum(len(request.prompt_ids) for request in self.requests), sum(self.num_tokens), known)


class _Chosen(_Pieces):
    """One piece, the text that a function chooses of all that jobs ask for.

    Args:
        choose: function from a list of lists of a text, its tokens and its finish reason to a `Piece`.
        engine, jobs: see `_Pieces`.
    """

    def __init__(self, choose, engine, jobs):
        super().__init__(engine, jobs)
        self._choose, self._num_drawn, self.num_texts = choose, self.num_texts, 1

    async def next(self, request=None):
        if not self._left:
            return None
        texts = [["", [], None] for _ in range(self._num_drawn)]
        while (piece := await super().next(request)) is not None:
            _add(piece, texts)
        return await asyncio.to_thread(self._choose, texts)


def _add(piece, texts):
    text = texts[piece.index]
    text[0] += piece.text
    text[1] += piece.tokens
    text[2] = piece.finish_reason


async def _whole_answer(request, pieces, form, metrics):
    texts = [["", [], None] for _ in range(pieces.num_texts)]
    candidates, is_first = None, True
    while (piece := await pieces.next(request)) is not None:
        if is_first:
            metrics.first_piece(pieces)
            is_first = False
        _add(piece, texts)
        candidates = piece.candidates
    metrics.answered(pieces)
    return JSONResponse(form.complete(texts, pieces.usage(), candidates))


async def _events(pieces, piece, form, wants_usage, metrics):
    """The lines of a stream, in the form of server-sent events."""
    try:
        metrics.first_piece(pieces)
        for index in range(pieces.num_texts):
            if (opening := form.opening(index)) is not None:
                yield _event(opening)
        while piece is not None:
            yield _event(form.chunk(piece))
            piece = await pieces.next()
        if wants_usage:
            yield _event(form.closing(pieces.usage()))
        yield "data: [DONE]\n\n"
    except BadRequest as failed:
        yield _event(answers.error(failed.message, "server_error"))
    finally:  # also where the client has gone
        pieces.cancel()
        metrics.answered(pieces)


def _event(value):
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _model(name, created):
    return {"id": name, "object": "model", "created": created, "owned_by": "kerasllm"}


def _error(status, message, kind, param=None, code=None):
    return JSONResponse(answers.error(message, kind, param, code), status)
