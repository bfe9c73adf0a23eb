"""A thread that owns a model: requests wait in a queue, take rows of the running batch, and get their text as it comes.

Between two chunks of the compiled loop it looks who has come and who has gone. What HTTP is, it does not know.
"""

import collections
import dataclasses
import threading
import time
import traceback

from kerasllm.generation.rows import RowSettings
from kerasllm.generation.running_batch import RunningBatch
from kerasllm.generation.text_stream import TextStream

SECONDS_OF_A_CHUNK = 0.1
TOKENS_READ_BETWEEN_CHUNKS = 256


class QueueFull(Exception):
    """As many requests wait as may."""


class RequestFailed(Exception):
    """What became of a request that got no answer, or not all of it: a sentence."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is new of one of the texts that a request asks for.

    Attributes:
        index: int, which of them.
        text: str.
        tokens: list of (id, log-probability, ids of the likeliest, their log-probabilities), where a request asks for
            log-probabilities; those of this text and perhaps of the next piece's.
        finish_reason: None, or why it has ended: "stop" or "length".
        num_tokens: int, how many tokens it has so far.
        candidates: None, or of a text that was chosen the list of `dialogue.Candidate`s, itself the first.
    """

    index: int
    text: str
    tokens: list
    finish_reason: str | None
    num_tokens: int
    candidates: list | None = None


class Request:
    """One prompt to be continued.

    Args:
        prompt_ids: list of int.
        settings: list of RowSettings, one for each text that is wanted.
        stop: list of str.
        tell: a function that is called with each `Piece`, and with a `RequestFailed` where it comes to that; in the
            engine's thread, so that it must not take long.
        pixel_values: a function that makes those of the prompt's pictures, once it is its turn; or None.

    Attributes:
        cancelled: bool, to be set where nobody waits for it any more.
        num_known: int, how many tokens of the prompt did not have to be read.
    """

    def __init__(self, prompt_ids, settings, stop, tell, pixel_values=None):
        self.prompt_ids, self.settings, self.stop, self.tell = prompt_ids, settings, stop, tell
        self.pixel_values = pixel_values
        self.cancelled = False
        self.num_known = 0
        self.deadline = None


class Engine:
    """Continues prompts side by side, in a thread of its own.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        rows: int, texts at once.
        queue: int, requests that may wait.
        seconds: float, how long a request may take in all; the text that it has got then is its answer.
        kept_bytes: int, memory for the caches of earlier texts.

    Example:
        >>> engine = Engine(model, tokenizer)
        >>> engine.start()
        >>> engine.submit(Request(tokenizer.encode("Once"), [RowSettings(max_new_tokens=5)], [], tell=print))
        >>> engine.stop()
    """

    def __init__(self, model, tokenizer, rows=16, queue=128, seconds=600.0, kept_bytes=2**29):
        self.model, self.tokenizer = model, tokenizer
        self.rows = rows
        self._queue_size, self._seconds = queue, seconds
        self._batch = RunningBatch(model, tokenizer.vocab_size, rows, kept_bytes)
        self.longest, self.vocab_size = self._batch.longest, self._batch.vocab_size
        self._waiting = collections.deque()
        self._reading = None  # a request and its `Reading`
        self._texts = {}  # from rows to `_Text`
        self._changed = threading.Condition()
        self._stops = False
        self._thread = threading.Thread(target=self._work, name="kerasllm engine", daemon=True)
        self._seconds_of_a_step = SECONDS_OF_A_CHUNK

    def start(self):
        self._thread.start()

    def stop(self):
        """Ends all requests and the thread."""
        with self._changed:
            self._stops = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_waiting(self):
        return len(self._waiting)

    @property
    def num_running(self):
        return len(self._texts)

    def warm_up(self):
        """Compiles what the first requests need: the loop for one text and for as many as there may be."""
        for rows in {1, self.rows}:
            reading = self._batch.begin([0] * min(17, self.longest - 1))
            while reading.read_piece():
                pass
            rows = [self._batch.join(reading, RowSettings(1)) for _ in range(rows)]
            self._batch.run(1)
            for row in rows:
                self._batch.leave(row)

    def submit(self, request):
        """Puts a request behind those that wait.

        Raises:
            QueueFull: if that are as many as may.
            RequestFailed: if the engine has stopped.
        """
        with self._changed:
            if self._stops:
                raise RequestFailed("The server is stopping.")
            if len(self._waiting) >= self._queue_size:
                raise QueueFull(f"{self._queue_size} requests are waiting already: try again later.")
            request.deadline = time.monotonic() + self._seconds
            self._waiting.append(request)
            self._changed.notify()

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stops or self._waiting or self._reading or self._texts)
                if self._stops:
                    break
            try:
                self._drop()
                self._admit()
                self._step()
            except Exception:  # of the model or of the machine: those who wait are told, and others are served
                traceback.print_exc()
                self._fail_running("The model failed; the server's log says how.")
        self._fail_running("The server is stopping.")
        while self._waiting:
            self._waiting.popleft().tell(RequestFailed("The server is stopping."))

    def _drop(self):
        """Forgets requests that nobody waits for, and ends those whose time is over."""
        now = time.monotonic()
        with self._changed:
            gone = [request for request in self._waiting if request.cancelled or request.deadline < now]
            self._waiting = collections.deque(request for request in self._waiting if request not in gone)
        if self._reading and (self._reading[0].cancelled or self._reading[0].deadline < now):
            gone.append(self._reading[0])
            self._reading = None
        for request in gone:
            request.tell(RequestFailed("The time that a request may take was over before it got a place."))
        for row, text in list(self._texts.items()):
            if text.request.cancelled:
                self._leave(row)
            elif text.request.deadline < now:
                text.end("length")
                self._leave(row)

    def _admit(self):
        """Reads prompts for which there are rows, a few tokens of them where others are waiting for their next."""
        allowed = TOKENS_READ_BETWEEN_CHUNKS
        while allowed > 0 and (self._reading or self._begin_reading()):
            request, reading = self._reading
            allowed -= reading.read_piece()
            if not reading.left:
                self._reading = None
                request.num_known = reading.known
                for index, settings in enumerate(request.settings):
                    row = self._batch.join(reading, settings)
                    self._texts[row] = _Text(request, index, self.tokenizer)

    def _begin_reading(self):
        with self._changed:
            if not self._waiting or len(self._texts) + len(self._waiting[0].settings) > self.rows:
                return False
            request = self._waiting.popleft()
        try:
            pictures = None if request.pixel_values is None else request.pixel_values()
            self._reading = request, self._batch.begin(request.prompt_ids, pictures)
        except Exception:  # those who are being answered have no part in it
            traceback.print_exc()
            request.tell(RequestFailed("The prompt could not be read; the server's log says how."))
            return self._begin_reading()
        return True

    def _step(self):
        if not self._texts:
            return
        began = time.perf_counter()
        steps = max(1, int(SECONDS_OF_A_CHUNK / self._seconds_of_a_step))
        for row, drawn in self._batch.run(steps).items():
            text = self._texts[row]
            if not drawn.is_finite:
                text.request.tell(RequestFailed("The model's logits are not finite, so it has diverged."))
                text.request.cancelled = True
            elif drawn.failure:
                text.request.tell(RequestFailed(drawn.failure))
                text.request.cancelled = True
            elif not text.request.cancelled:
                text.take(drawn)
            if drawn.has_ended or text.has_ended or text.request.cancelled:
                self._leave(row)
        self._seconds_of_a_step = max((time.perf_counter() - began) / steps, 1e-4)

    def _leave(self, row):
        del self._texts[row]
        self._batch.leave(row)

    def _fail_running(self, sentence):
        requests = {text.request: None for text in self._texts.values()}
        if self._reading:
            requests[self._reading[0]] = None
        self._texts.clear()
        self._batch.clear()
        self._reading = None
        for request in requests:
            request.cancelled = True
            request.tell(RequestFailed(sentence))


class _Text:
    """One of the texts of a request, on its way."""

    def __init__(self, request, index, tokenizer):
        self.request, self.has_ended = request, False
        self._index, self._tokenizer = index, tokenizer
        self._ids, self._length = [], 0
        self._tokens = []  # those that are not told yet, with their log-probabilities
        self._stream = TextStream(tokenizer, request.prompt_ids, request.stop)

    def take(self, drawn):
        """Tells what is new."""
        self._ids += drawn.ids
        self._tokens += [(token, *report) for token, report in zip(drawn.ids, drawn.reports, strict=False)]
        text = self._stream.read(self._ids, is_last=drawn.has_ended)
        self._length += len(text)
        if self._stream.stopped and self._tokens:
            del self._tokens[max(len(self._tokens) - self._tokens_behind(), 0) :]
        if self._stream.stopped or drawn.has_ended:
            self._tell(text, "stop" if self._stream.stopped or drawn.by_end_token else "length")
        elif text:
            self._tell(text, None)

    def _tokens_behind(self):
        """How many tokens stand behind the text, which a stop string has ended."""
        count = len(self._ids)
        while count and len(self._tokenizer.decode(self._ids[: count - 1])) >= self._length:
            count -= 1
        return len(self._ids) - count

    def end(self, finish_reason):
        """Ends it where it is."""
        self._tell(self._stream.read(self._ids, is_last=True), finish_reason)

    def _tell(self, text, finish_reason):
        self.has_ended = finish_reason is not None
        tokens, self._tokens = self._tokens, []
        self.request.tell(Piece(self._index, text, tokens, finish_reason, len(self._ids)))
