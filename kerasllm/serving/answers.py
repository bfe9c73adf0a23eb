"""Answers in the form of OpenAI's API: plain dicts, of which JSON is made."""

import time
import uuid


class Chat:
    """Answers to `/v1/chat/completions`.

    Args:
        model: str, its name.
        num_top: int or None, how many likely tokens are reported at each place.
        token_text: function from an id to its text.
    """

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, model, num_top, token_text):
        self._head = {"id": self.prefix + uuid.uuid4().hex, "created": int(time.time()), "model": model}
        self._num_top, self._token_text = num_top, token_text

    def opening(self, index):
        """What a stream begins with, or None."""
        return self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def chunk(self, piece):
        """What a stream says of a `Piece`."""
        delta = {"content": piece.text} if piece.text else {}
        choice = {"index": piece.index, "delta": delta, "finish_reason": piece.finish_reason}
        return self._chunk({**choice, **self._logprobs(piece.tokens, 0), **_chosen_of(piece.candidates)})

    def closing(self, usage):
        """What a stream ends with, where the usage is asked for."""
        return {**self._chunk(), "usage": usage}

    def complete(self, texts, usage, candidates=None):
        """The answer to a request that wants no stream.

        Args:
            texts: list of (text, tokens, finish_reason).
            usage: from `usage`.
            candidates: list of `dialogue.Candidate`s of which the one text was chosen, or None.
        """
        more = _chosen_of(candidates)
        choices = [
            {"index": index, **self._content(text), "finish_reason": reason, **self._logprobs(tokens, 0), **more}
            for index, (text, tokens, reason) in enumerate(texts)
        ]
        return {**self._head, "object": self.whole, "choices": choices, "usage": usage}

    def _content(self, text):
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _chunk(self, *choices):
        return {**self._head, "object": self.part, "choices": list(choices)}

    def _logprobs(self, tokens, offset):
        if self._num_top is None:
            return {"logprobs": None}
        content = []
        for token, log_probability, ids, of_ids in tokens:
            top = zip(ids[: self._num_top], of_ids[: self._num_top], strict=True)
            top = [self._token(*pair) for pair in top]
            content.append({**self._token(token, log_probability), "top_logprobs": top})
        return {"logprobs": {"content": content, "refusal": None}}

    def _token(self, token, log_probability):
        text = self._token_text(token)
        return {"token": text, "logprob": log_probability, "bytes": list(text.encode())}


class Completion(Chat):
    """Answers to `/v1/completions`."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def __init__(self, *args):
        super().__init__(*args)
        self._lengths = {}  # of the texts that are streamed, so far

    def opening(self, index):
        return None

    def chunk(self, piece):
        offset = self._lengths.get(piece.index, 0)
        self._lengths[piece.index] = offset + sum(len(self._token_text(token[0])) for token in piece.tokens)
        choice = {"index": piece.index, **self._content(piece.text), "finish_reason": piece.finish_reason}
        return self._chunk({**choice, **self._logprobs(piece.tokens, offset)})

    def _content(self, text):
        return {"text": text}

    def _logprobs(self, tokens, offset):
        if self._num_top is None:
            return {"logprobs": None}
        texts, offsets, tops = [], [], []
        for token, _, ids, of_ids in tokens:
            texts.append(self._token_text(token))
            offsets.append(offset)
            offset += len(texts[-1])
            pairs = zip(ids[: self._num_top], of_ids[: self._num_top], strict=True)
            tops.append({self._token_text(other): log_probability for other, log_probability in pairs})
        logprobs = [log_probability for _, log_probability, *_ in tokens]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        return {"logprobs": dict(zip(names, (texts, logprobs, tops, offsets), strict=True))}


def _chosen_of(candidates):
    """What a choice says of what it was chosen from: not OpenAI's, whose clients let it through."""
    if candidates is None:
        return {}
    rows = [{"text": one.text, "score": one.score, "ratings": one.ratings._asdict()} for one in candidates]
    return {"candidates": rows}


def usage(prompt_tokens, completion_tokens, known_tokens):
    """How many tokens a request has taken; `known_tokens` of its prompt did not have to be read."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": known_tokens},
    }


def error(message, kind, param=None, code=None):
    """An error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
