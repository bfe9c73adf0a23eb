"""Texts that are continued side by side, and join and leave while others go on: what a server decodes with.

A prompt is read into a cache of its own, in pieces between which others may go on, all but its last token. Then it
takes a row of the batch, whose loop reads that token and draws, a few steps at a time. Shapes: R rows, V vocab.
"""

import dataclasses
import functools
import random
import warnings

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.buffers import check_prompts
from kerasllm.generation.constraints.masks import look_at
from kerasllm.generation.kept_texts import KeptTexts
from kerasllm.generation.precision import in_float32
from kerasllm.generation.prompt_reading import Reading
from kerasllm.generation.row_cache import RowCache, length_bucket
from kerasllm.generation.row_loop import MOST_STEPS, compiled_loop
from kerasllm.generation.rows import Row, newly_drawn
from kerasllm.generation.seen_pictures import SeenPictures
from kerasllm.generation.settings import rule_options
from kerasllm.generation.standard_rules import Rules
from kerasllm.generation.stepping import get_stepper
from kerasllm.layers.positions import BIASED
from kerasllm.models import CausalLM
from kerasllm.models.shapes import context_length, length_dependent_rotations, output_width

MOST_END_IDS = 8
CHUNKS_BEFORE_SHRINKING = 64


class RunningBatch:
    """Rows of texts that are continued together.

    Args:
        model: a `CausalLM`.
        vocab_size: int or None. Ids from here on are never drawn.
        most_rows: int.
        kept_bytes: int, how much memory the caches of earlier texts may take, which others may begin with.

    Attributes:
        longest: int, the most tokens that a text may have.
        kept: KeptTexts.

    Raises:
        TypeError: if the model is another.

    Example:
        >>> batch = RunningBatch(model, tokenizer.vocab_size)
        >>> reading = batch.begin(tokenizer.encode("Once upon"))
        >>> while reading.read_piece():
        ...     pass
        >>> row = batch.join(reading, rows.RowSettings(max_new_tokens=8))
        >>> drawn = batch.run(8)[row].ids
    """

    def __init__(self, model, vocab_size=None, most_rows=16, kept_bytes=2**29):
        if not isinstance(model, CausalLM) or type(model).call is not CausalLM.call:
            raise TypeError(f"Texts are continued side by side by a CausalLM, got a {type(model).__name__}.")
        if getattr(model, "sees_prompts_whole", False):
            raise TypeError(
                f"{model.name} sees prompts whole, which are read in pieces here: `generate` continues them."
            )
        self.model, self.most_rows = model, most_rows
        self.stepper = get_stepper(model, cached=True)
        init_cache = self.stepper.init_cache
        self.init_cache = in_float32(model, init_cache) if backend.on_cpu() else init_cache
        self.longest = _longest(model)
        self.kept = KeptTexts(kept_bytes)
        self.vocab_size = output_width(model)
        self._rules = Rules(**_kept_rules(model))
        self._allowed = np.arange(self.vocab_size)[None] < (vocab_size or self.vocab_size)
        self._allowed[:, [i for i in self._rules.suppress_tokens if i < self.vocab_size]] = False
        self._loops, self._rows, self._cache = {}, [], None
        self._index = self._idle_chunks = 0

    @functools.cached_property
    def read(self):
        """A compiled function (tokens (1, T), place of the first, cache) -> cache."""
        return self._compiled(lambda tokens, start, cache: self._forward({"token_ids": tokens}, start, cache))

    @functools.cached_property
    def read_seen(self):
        """The same of tokens with pictures among them: (tokens, vectors (1, T, D), where these stand (1, T), numbers of
        those that see each other (1, T), place, cache) -> cache."""

        def read(tokens, vectors, is_picture, spans, start, cache):
            x = self.model.embed(tokens)
            x = ops.where(is_picture[..., None], ops.cast(vectors, x.dtype), x)
            spans = {"span_ids": spans} if self.model.attention == "image" else {}
            return self._forward({"token_ids": tokens, "embeddings": x, **spans}, start, cache)

        return self._compiled(read)

    @functools.cached_property
    def see(self):
        """A compiled function from pixel values (1, height, width, channels) to vectors (1, P, D)."""
        return self._compiled(lambda pixels: ops.cast(self.model.image_vectors(pixels, training=False), "float32"))

    def _forward(self, inputs, start, cache):
        with backend.sharing():
            positions = start + ops.arange(inputs["token_ids"].shape[1], dtype="int32")
            positions = ops.minimum(positions, self.longest - 1)[None]
            return self.stepper.forward(inputs, cache, start, positions, None)[1]

    def _compiled(self, function):
        function = in_float32(self.model, function) if backend.on_cpu() else function
        return backend.compile_function(function, self.model.variables, xla=False, by_shape=True)

    @property
    def num_rows(self):
        """How many texts are in it."""
        return len(self._rows)

    def begin(self, ids, pixel_values=None):
        """A `Reading` of a prompt, a list of int, with the pictures of a `VisionLanguageModel`, (I, height, width,
        channels), or None.

        Raises:
            ValueError: if it is empty or longer than the model takes, has ids that the model does not know, or more or
                fewer image tokens than its pictures make, or ends with one.
        """
        seen = {} if pixel_values is None else {"pixel_values": pixel_values}
        check_prompts(self.model, [{"token_ids": ids, **seen}], self.vocab_size)
        if len(ids) >= self.longest:
            raise ValueError(f"A prompt of {len(ids)} tokens does not fit the model's context of {self.longest}.")
        if not seen:
            return Reading(self, ids)
        if ids[-1] == self.model.image_token_id:
            raise ValueError("A prompt ends with a text, which the model goes on with, and not with a picture.")
        return Reading(self, ids, SeenPictures(self.model, self.see, ids, pixel_values))

    def join(self, reading, settings):
        """Gives a prompt that has been read a row, which is returned. One `Reading` may join several times.

        Raises:
            ValueError: if there are `most_rows` already.
        """
        if len(self._rows) >= self.most_rows:
            raise ValueError(f"All {self.most_rows} rows are taken.")
        count = len(reading.ids) - 1
        if not self._rows:  # What the ring holds is nobody's: it may as well be small, and its clock begin anew.
            self._index = 0
            self._resize(1, count + 1)
        elif len(self._rows) == self._cache.rows or count >= self._cache.length:
            self._resize(len(self._rows) + 1, max(count + 1, self._longest_now()))
        number = min(set(range(self._cache.rows)) - {row.number for row in self._rows})
        begin = self._index - count
        self._cache.put(number, begin, count, self._index, reading.cache)
        seed = random.getrandbits(31) if settings.seed is None else settings.seed % 2**31
        limit = min(settings.max_new_tokens, self.longest - count - 1)
        settings = dataclasses.replace(settings, seed=seed, max_new_tokens=limit)
        row = Row(settings, list(reading.ids), number, begin, names=reading.names)
        if settings.constraint is not None:
            row.guided = settings.constraint.text(limit, settings.end_ids, self.vocab_size)
        self._rows.append(row)
        return row

    def leave(self, row):
        """Frees a row; what was read of its text is kept for others."""
        self._rows.remove(row)
        names = [*row.names, *row.ids[len(row.names) :]]
        self.kept.keep(names[:-1], functools.partial(self._cache.take, row.number, row.begin))

    def clear(self):
        """Frees all rows, and keeps nothing of them: what a loop that failed has left may be anything."""
        self._rows, self._cache = [], None

    def run(self, steps):
        """Draws up to `steps` more tokens, `MOST_STEPS` at most, for each row: a dict from rows to `Drawn`.

        Rows that have ended are to leave before the next call.
        """
        if not self._rows:
            return {}
        masks, most = self._masks()
        steps = min(steps, most, MOST_STEPS)
        self._fit(min(self._longest_now() + steps, self.longest))
        penalises = any(self._penalty(row) != 1 for row in self._rows)
        way = self._way
        key = way, penalises, any(row.settings.reports for row in self._rows)
        if key not in self._loops:
            self._loops[key] = compiled_loop(self.model, self.stepper, *key)
        counts = np.array(self._index, "int32"), np.array(steps, "int32")
        settings = {**self._settings(), **masks}
        results = self._loops[key](*counts, settings, self._seen(penalises), self._cache.values)
        now, _, drawn, done, tokens, reported, cache = results
        if way != "runs":
            self._cache.values = cache
        self._index = int(now)
        drawn, done, tokens, *reported = map(np.asarray, (drawn, done, tokens, *reported))
        news = {}
        for row in self._rows:
            count = int(drawn[row.number]) - row.drawn
            row.drawn, row.done = row.drawn + count, bool(done[row.number])
            news[row] = newly_drawn(row, *(part[row.number, :count].tolist() for part in (tokens, *reported)))
            ids = tokens[row.number, :count].tolist()
            row.ids += ids
            for token in ids if row.guided else ():
                row.guided.read(token, row.settings.end_ids)
        return news

    def _longest_now(self):
        """The tokens of the longest text, that which is drawn next among them."""
        return max(self._index - row.begin for row in self._rows) + 1

    def _fit(self, length):
        """Makes the ring long enough, and after a while of less work than it is made for, smaller."""
        rows, places = self._size(len(self._rows), length)
        if places > self._cache.length:
            self._resize(self._cache.rows, length)
        self._idle_chunks = 0 if (rows, places) == (self._cache.rows, self._cache.length) else self._idle_chunks + 1
        if self._idle_chunks > CHUNKS_BEFORE_SHRINKING:
            self._resize(len(self._rows), length)

    def _size(self, rows, length):
        """Those numbers of rows and places for which something is compiled."""
        size = 1
        while size < rows:
            size *= 4
        return min(size, self.most_rows), length_bucket(length, self.longest)

    def _resize(self, rows, length):
        rows, length = self._size(rows, length)
        self._idle_chunks = 0
        if self._cache is None or not self._rows:
            if self._cache is None or (self._cache.rows, self._cache.length) != (rows, length):
                self._cache = None  # before there is another
                self._cache = RowCache(self.init_cache, rows, length, in_buffers=self._way == "runs")
            return
        self._cache.resize([row.number for row in self._rows], rows, length, self._index)
        for number, row in enumerate(self._rows):
            row.number = number

    @property
    def _way(self):
        """How the loop is compiled: see `row_loop.compiled_loop`."""
        if not self.stepper.uses_xla:
            return "plain"
        if not (backend.IS_TENSORFLOW and backend.on_cpu()) or self.model.transformer.positions in BIASED:
            return "whole"
        return "runs"

    def _penalty(self, row):
        own = row.settings.repetition_penalty
        return self._rules.repetition_penalty if own is None else own

    def _settings(self):
        """What the loop wants to know of each row; one that is free has ended."""
        R = self._cache.rows
        settings = {
            "last": np.zeros(R, "int32"),
            "begins": np.full(R, self._index, "int32"),
            "drawn": np.zeros(R, "int32"),
            "limits": np.zeros(R, "int32"),
            "done": np.ones(R, bool),
            "seeds": np.zeros(R, "int32"),
            "end_ids": np.full((R, MOST_END_IDS), -1, "int32"),
            "penalty": np.ones((R, 1), "float32"),
            "temperature": np.zeros((R, 1), "float32"),
            "top_k": np.zeros((R, 1), "int32"),
            "top_p": np.ones((R, 1), "float32"),
            "min_p": np.zeros((R, 1), "float32"),
        }
        for row in self._rows:
            own, end_ids = row.settings, row.settings.end_ids[:MOST_END_IDS]
            values = {"last": row.ids[-1], "begins": row.begin, "drawn": row.drawn, "done": row.done}
            values |= {"limits": own.max_new_tokens, "seeds": own.seed, "penalty": self._penalty(row)}
            for name, value in {**values, **own.sampler.settings()}.items():
                settings[name][row.number] = value
            settings["end_ids"][row.number, : len(end_ids)] = end_ids
        return {**settings, "allowed": self._allowed}

    def _masks(self):
        """What rows that are held to a grammar may go on with, and for how many steps that is known."""
        texts = [None] * self._cache.rows
        for row in self._rows:
            texts[row.number] = None if row.done else row.guided
        if not any(texts):
            return {}, MOST_STEPS
        masks, steps = look_at(texts, self.vocab_size)
        for row in self._rows:
            row.done = row.done or bool(row.guided and row.guided.failure)
        return masks, steps

    def _seen(self, penalises):
        if not penalises:
            return np.zeros((1, 1), bool)
        seen = np.zeros((self._cache.rows, self.vocab_size), bool)
        for row in self._rows:
            seen[row.number, row.ids] = True
        return seen


def _longest(model):
    """The most tokens of a text, which where rotary positions turn longer ones otherwise is a shorter one."""
    limits = [context_length(model), *(rotation.original_length for rotation in length_dependent_rotations(model))]
    return min(limit for limit in limits if limit is not None)


def _kept_rules(model):
    """What of a model's rules is followed here; of others a warning says that it is not."""
    rules = rule_options(model, ())
    unheeded = sorted(rules.keys() - {"repetition_penalty", "suppress_tokens"})
    if unheeded:
        warnings.warn(f"{model.name} asks for {', '.join(unheeded)}, which is not heeded side by side.", stacklevel=3)
    return {name: value for name, value in rules.items() if name not in unheeded}
