"""What a model is asked for by requests, in the engine's terms: prompts, settings, limits."""

import dataclasses
import functools
import threading

from kerasllm.dialogue.writing import FALLBACK, MIN_SAFETY, judged, rank_of
from kerasllm.generation.constraints.asked import make_constraint
from kerasllm.generation.embedding import embed
from kerasllm.generation.rows import RowSettings
from kerasllm.generation.samplers import Sampler
from kerasllm.images.chats import encode_shown
from kerasllm.images.shown import pixel_values_of
from kerasllm.models import TextEmbedder, VisionLanguageModel
from kerasllm.serving.engine import Engine, Piece, Request
from kerasllm.serving.protocol import BadRequest
from kerasllm.tokenizers.chat_template import turn_end_id

DEFAULT_TOKENS_OF_A_COMPLETION = 16  # as OpenAI's
MOST_TEXTS = 64  # that are embedded at once


def served_model(model, tokenizer, **options):
    """A `TextModel` or an `EmbeddingModel`.

    Args:
        model: a `CausalLM` or a `TextEmbedder`.
        tokenizer: its `Tokenizer`.
        **options: of a `TextModel`.

    Raises:
        TypeError: for a model of another kind.
    """
    return (
        EmbeddingModel(model, tokenizer) if isinstance(model, TextEmbedder) else TextModel(model, tokenizer, **options)
    )


class TextModel:
    """A model that goes on with texts.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        most_tokens: int or None, the most that a request may ask for.
        **options: of an `Engine`.
    """

    def __init__(self, model, tokenizer, most_tokens=None, **options):
        self.tokenizer = tokenizer
        self.engine = Engine(model, tokenizer, **options)
        self._most_tokens = most_tokens
        processor = getattr(model, "image_processor", None)
        self._processor = processor if processor and processor.tokens else None
        self._one_judges, self._one_decodes = threading.Lock(), threading.Lock()
        self.start, self.stop, self.warm_up = self.engine.start, self.engine.stop, self.engine.warm_up

    @property
    def sees(self):
        """Whether messages may have images."""
        return self._processor is not None

    def token_text(self, token):
        return self.tokenizer.decode([token], skip_special=False)

    def chat_job(self, asked):
        """A function that makes the `Request` of a `ChatRequest`.

        Raises:
            BadRequest: if it cannot be answered.
        """
        if self.tokenizer.chat_template is None:
            raise BadRequest(
                "The model has no chat template, as it was not trained to chat: use /v1/completions.", "model"
            )
        try:
            prompt_ids, shown = self._read_chat(asked.messages)
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error), "messages") from None
        most = asked.max_completion_tokens or asked.max_tokens
        turn_end = turn_end_id(self.tokenizer)
        end_ids = (*self.tokenizer.end_ids, *([] if turn_end is None else [turn_end]))
        constraint = self._constraint(asked.response_format, end_ids)
        reports = bool(asked.logprobs)
        job = self._job(asked, prompt_ids, most, end_ids, "messages", reports, constraint, shown)
        self._check_images(shown)
        return job

    def _read_chat(self, messages):
        """The ids of a chat, and what is shown in it, a list of `images.shown.Shown`."""
        if self._processor is not None:
            most = self.engine.longest // self._processor.tokens.count
            if (count := sum(len(message.images) for message in messages)) > most:
                raise ValueError(f"The context has room for {most} images at most, got {count}.")
            ids, _, shown = encode_shown(self.tokenizer, self._processor, [one.in_parts() for one in messages])
            return ids, shown
        if any(message.images for message in messages):
            sees = isinstance(self.engine.model, VisionLanguageModel)
            reason = "its folder does not say how images are made for it" if sees else "it reads texts alone"
            raise ValueError(f"This model takes no images, as {reason}: leave them out.")
        return self.tokenizer.encode_chat([message.plain() for message in messages]), []

    def _check_images(self, shown):
        """Refuses those that cannot be decoded. They are once more when it is the request's turn: so no more of them is
        held than was sent."""
        for one in shown:
            try:
                with self._one_decodes:
                    one.pixel_values()
            except (ImportError, ValueError) as error:
                raise BadRequest(str(error), "messages") from None

    def _constraint(self, response_format, end_ids):
        """What an answer is held to, or None."""
        schema = response_format and response_format.asked_schema()
        if schema is None:
            return None
        try:
            constraint = make_constraint("json_schema", schema, self.tokenizer)
            constraint.begin([()], [1], end_ids, self.engine.vocab_size)[1].before([False])  # refuses it, if need be
        except (ImportError, TypeError, ValueError) as error:
            raise BadRequest(str(error), "response_format") from None
        return constraint

    def choose(self, asked, texts):
        """A `Piece` of the best of texts in answer to a `ChatRequest`, with all of them, as `dialogue.reply` judges.

        Args:
            asked: `ChatRequest`.
            texts: list of lists of a text (str), its tokens and its finish reason.

        Raises:
            BadRequest: if they cannot be judged.
        """
        messages = [message.plain() for message in asked.messages]
        least = MIN_SAFETY if asked.min_safety is None else asked.min_safety
        try:
            with self._one_judges:
                judge = self.engine.model, self.tokenizer
                candidates = judged(judge, messages, [text for text, *_ in texts], min_safety=least)
        except ValueError as error:
            raise BadRequest(str(error), "candidates") from None
        ranked = sorted(zip(candidates, texts, strict=True), key=lambda pair: rank_of(pair[0]), reverse=True)
        best, (_, _, reason) = ranked[0]
        text, reason = (FALLBACK, "stop") if best.score is None else (best.text, reason)
        return Piece(0, text, [], reason, 0, [candidate for candidate, _ in ranked])

    def completion_jobs(self, asked):
        """As `chat_job`, for each prompt of a `CompletionRequest`."""
        prompts = _prompts_of(asked)
        if not 0 < len(prompts) * (asked.n or 1) <= self.engine.rows:
            raise BadRequest(f"There may be 1 to {self.engine.rows} texts in a request.", "prompt")
        most = asked.max_tokens or DEFAULT_TOKENS_OF_A_COMPLETION
        reports, end_ids = asked.logprobs is not None, tuple(self.tokenizer.end_ids)
        return [self._job(asked, self._encoded(prompt), most, end_ids, "prompt", reports) for prompt in prompts]

    def prompt_texts(self, asked):
        """The prompts of a `CompletionRequest` as texts, those of ids too."""
        prompts = _prompts_of(asked)
        return [prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt) for prompt in prompts]

    def _encoded(self, prompt):
        if not isinstance(prompt, str):
            if max(prompt) >= self.engine.vocab_size:
                raise BadRequest(f"The model has no token {max(prompt)}.", "prompt")
            return prompt
        ids = self.tokenizer.encode(prompt)
        if not ids:  # It begins as texts do in training, after the end of another.
            ids = [i for i in (self.tokenizer.end_id, self.tokenizer.start_id) if i is not None][:1]
        if not ids:
            raise BadRequest("The prompt is empty.", "prompt")
        return ids

    def _job(self, asked, prompt_ids, most, end_ids, param, reports, constraint=None, shown=()):
        space = self.engine.longest - len(prompt_ids)
        if space < 1 or (most or 1) > space:
            wanted = f" and an answer of {most}" if most else ""
            raise BadRequest(
                f"A prompt of {len(prompt_ids)} tokens{wanted} does not fit the context of {self.engine.longest}.",
                param,
                "context_length_exceeded",
            )
        if self._most_tokens is not None and most and most > self._most_tokens:
            raise BadRequest(f"At most {self._most_tokens} tokens may be asked for, got {most}.", "max_tokens")
        name, n = asked.num_texts
        if n > self.engine.rows:
            raise BadRequest(f"`{name}` may be up to {self.engine.rows} here, got {n}.", name)
        settings = RowSettings(
            max_new_tokens=min(most or space, self._most_tokens or space),
            sampler=_sampler(asked),
            end_ids=end_ids,
            repetition_penalty=asked.repetition_penalty,
            reports=reports,
            constraint=constraint,
        )
        each = [
            settings if asked.seed is None else dataclasses.replace(settings, seed=asked.seed + number)
            for number in range(n)
        ]
        stop = [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or ())
        pixel_values = functools.partial(pixel_values_of, shown) if shown else None
        return lambda tell: Request(prompt_ids, each, stop, tell, pixel_values)

    def embed(self, asked):
        raise BadRequest("The model makes no embeddings: serve a TextEmbedder for them.", "model")


class EmbeddingModel:
    """A model that makes vectors of texts.

    Args:
        model: a `TextEmbedder`.
        tokenizer: its `Tokenizer`.
    """

    engine, sees = None, False

    def __init__(self, model, tokenizer):
        self._model, self._tokenizer, self._one_at_a_time = model, tokenizer, threading.Lock()

    def start(self):
        pass

    stop = warm_up = start

    def token_text(self, token):
        return self._tokenizer.decode([token])

    def embed(self, asked):
        """The vectors, float32 (N, W), of an `EmbeddingRequest`, and how many tokens its texts have."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not 0 < len(texts) <= MOST_TEXTS:
            raise BadRequest(f"There may be 1 to {MOST_TEXTS} texts in a request.", "input")
        if not all(texts):
            raise BadRequest("A text to embed is not empty.", "input")
        with self._one_at_a_time:
            vectors = embed(self._model, self._tokenizer, texts)
        if asked.dimensions not in (None, vectors.shape[1]):
            raise BadRequest(f"`dimensions` is {vectors.shape[1]} here, got {asked.dimensions}.", "dimensions")
        return vectors, sum(map(len, self._tokenizer.encode_batch(texts)))

    def chat_job(self, asked):
        raise BadRequest("The model makes embeddings alone: use /v1/embeddings.", "model")

    completion_jobs = chat_job


def _prompts_of(asked):
    """The prompts of a `CompletionRequest`, each a str or a list of int."""
    is_one = isinstance(asked.prompt, str) or (asked.prompt and isinstance(asked.prompt[0], int))
    return [asked.prompt] if is_one else asked.prompt


def _sampler(asked):
    temperature = 1.0 if asked.temperature is None else asked.temperature
    top_p = 1.0 if asked.top_p is None else asked.top_p
    return Sampler(temperature, asked.top_k or 0, top_p, asked.min_p or 0.0)
