"""How likely a model holds tokens: of masked models each hidden in turn, of the others behind those that come before.

Shapes: B rows in a batch, T their length.
"""

import keras
import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.loop import NOT_FINITE
from kerasllm.losses.likelihood import log_probabilities
from kerasllm.models import CausalLM, MaskedLM, Seq2SeqLM
from kerasllm.models.shapes import context_length, output_width
from kerasllm.progress import progress_bar
from kerasllm.tasks import task_of
from kerasllm.tokenizers import as_tokenizer
from kerasllm.tokenizers.masks import require_mask
from kerasllm.tokenizers.sides import Sides

_TOKENS_AT_ONCE = 2048
_WIDTH = 16  # of which the lengths of rows are multiples, so that shapes are few


def likelihoods_of(model, tokenizer):
    """The `Likelihoods` of a model.

    Raises:
        TypeError: for a model that has no likelihood of tokens, such as a classifier.
    """
    if isinstance(model, Seq2SeqLM):
        return TargetLikelihoods(model, tokenizer)
    if isinstance(model, MaskedLM):
        return MaskedLikelihoods(model, tokenizer)
    if not isinstance(model, CausalLM) and (not isinstance(model, keras.Model) or task_of(model) is not None):
        raise TypeError(f"Bias is measured of a CausalLM, MaskedLM or Seq2SeqLM, got a {type(model).__name__}.")
    return CausalLikelihoods(model, tokenizer)


class Likelihoods:
    """The log-probabilities that a model gives to tokens.

    Args:
        model, tokenizer: they belong together.
    """

    is_masked = False

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, as_tokenizer(tokenizer)
        compute = getattr(model, "log_probabilities", self._of_plain_model)
        self._compute = backend.compile_function(compute, model.variables, xla=False)

    def encode(self, text):
        """The ids of a text with what the model expects around it, list, and the places of its own tokens, range."""
        ids = self.tokenizer.encode(text)
        bare = next(iter(self.tokenizer.encode_stream([text], bare=True))).tolist()
        begins = range(len(ids) - len(bare) + 1)
        before = next((begin for begin in begins if ids[begin : begin + len(bare)] == bare), 0)
        return self._completed(ids, before, len(bare))

    def log_probabilities(self, texts):
        """Of tokens of texts.

        Args:
            texts: list of pairs of ids (list of int) and places (of those that are asked for).

        Returns:
            list of float64 (places,), in nats.
        """
        raise NotImplementedError

    def geometric_means(self, texts):
        """Of the probabilities of all tokens of texts, list of float. The first stands behind the token before texts,
        which then is out of sight, unless the tokenizer itself puts it there."""
        asked = []
        for text in texts:
            ids, places = self.encode(text)
            if places.start != 1 or self.tokenizer.encode(text)[:1] == ids[:1]:
                asked += [(ids, places), ([ids[0], ids[0]], ())]
            else:
                asked += [(ids[1:], range(1, len(ids) - 1)), (ids[:2], (1,))]
        found = self.log_probabilities(asked)
        return [float(np.exp(np.concatenate(two).mean())) for two in zip(found[::2], found[1::2], strict=True)]

    def continuations(self, prompts, texts):
        """Of the tokens of texts behind prompts, list of float64 (tokens,)."""
        asked = []
        for prompt, text in zip(prompts, texts, strict=True):
            ids, _, of_text = self.part(prompt + text, len(prompt), len(prompt + text))
            asked.append((ids, of_text))
        return self.log_probabilities(asked)

    def part(self, text, begin, end):
        """As `encode`, and the places of the tokens of text[begin:end], range. A token that begins before it counts."""
        ids, places = self.encode(text)
        bounds = []
        for stop in (begin, end):
            before, of_before = self.encode(text[:stop])
            pairs = enumerate(zip(before[: of_before.stop], ids, strict=False))
            bounds.append(next((i for i, (a, b) in pairs if a != b), of_before.stop))
        begin = max(bounds[0], places.start)
        return ids, places, range(begin, max(bounds[1], min(begin + 1, places.stop)))

    def _completed(self, ids, before, bare):
        return ids, range(before, before + bare)

    def _of_plain_model(self, inputs, labels, weight):
        return ops.where(
            weight != 0, log_probabilities(labels, self.model(inputs["token_ids"], training=False))[0], 0.0
        )

    def _scored(self, rows):
        """Log-probabilities of rows, each a dict of inputs (lists of int), with "labels" of as many as the last of
        them, -1 where nothing is asked for: list of float64, of those that are."""
        longest = context_length(self.model)
        lengths = np.array([max(map(len, row.values())) for row in rows])
        if longest is not None and len(rows) and lengths.max() > longest:
            raise ValueError(
                f"A text of the test has {lengths.max()} tokens, and the model takes {longest}: that is too short."
            )
        found, order = [None] * len(rows), np.argsort(-lengths, kind="stable")
        with progress_bar(transient=True) as bar:
            task = bar.add_task("scoring", total=len(rows), unit="rows")
            while len(order):
                count = max(1, _TOKENS_AT_ONCE // int(lengths[order[0]]))
                some, order = order[:count], order[count:]
                inputs, labels = self._padded([rows[i] for i in some])
                values = self._compute(inputs, np.maximum(labels, 0), (labels >= 0).astype("float32"))
                for i, row, asked in zip(some, np.asarray(values, "float64"), labels >= 0, strict=True):
                    found[i] = row[asked]
                bar.update(task, advance=len(some))
        if any(not np.isfinite(values).all() for values in found):
            raise ValueError(NOT_FINITE)
        return found

    def _padded(self, rows):
        arrays = {}
        for name in rows[0]:
            length = max(len(row[name]) for row in rows)
            arrays[name] = np.full((len(rows), -(-length // _WIDTH) * _WIDTH), -1, "int32")
            for place, row in enumerate(rows):
                arrays[name][place, : len(row[name])] = row[name]
        labels = arrays.pop("labels")
        return self._inputs(arrays), labels

    def _inputs(self, arrays):
        ids = arrays["token_ids"]
        # Places behind a text are a document of their own only where a model reads both ways.
        return {"token_ids": np.maximum(ids, 0), "document_ids": (ids >= 0).astype("int32")}


class CausalLikelihoods(Likelihoods):
    """Of tokens behind those before them. The first stands behind the start token, or the end of another document."""

    def log_probabilities(self, texts):
        vocab_size, rows = output_width(self.model), []
        for ids, places in texts:
            labels = np.full(len(ids), -1)
            labels[list(places)] = np.asarray(ids)[list(places)]
            if max(ids) >= vocab_size:
                raise ValueError(f"Token id {max(ids)} is outside the model's vocabulary of {vocab_size}.")
            rows.append({"token_ids": ids[:-1], "labels": labels[1:].tolist()})
        return self._scored(rows)

    def _completed(self, ids, before, bare):
        prefix = self.tokenizer.start_id if self.tokenizer.end_id is None else self.tokenizer.end_id
        if before:
            return ids[: before + bare], range(before, before + bare)
        if prefix is None:  # nothing says how texts begin
            return ids[:bare], range(1, bare)
        return [prefix, *ids[:bare]], range(1, bare + 1)


class MaskedLikelihoods(Likelihoods):
    """Of tokens that are hidden one at a time, with all others in sight."""

    is_masked = True

    def log_probabilities(self, texts):
        mask_id, rows, counts = require_mask(self.tokenizer), [], []
        for ids, places in texts:
            rows += [self.hidden([*ids[:place], mask_id, *ids[place + 1 :]], place, ids[place]) for place in places]
            counts.append(len(places))
        found = self._scored(rows)
        ends = np.cumsum(counts)
        return [np.array([value[0] for value in found[end - n : end]]) for end, n in zip(ends, counts, strict=True)]

    def _completed(self, ids, before, bare):
        end_id = self.tokenizer.end_id  # which follows each document in training
        ends = end_id is None or end_id in ids[-1:]
        return ids if ends else [*ids, end_id], range(before, before + bare)

    def hidden(self, ids, place, label):
        """A row in which one place is asked for."""
        return {"token_ids": ids, "labels": [label if i == place else -1 for i in range(len(ids))]}

    def of_rows(self, rows):
        """The log-probability of each of the rows that `hidden` makes, float64 (rows,)."""
        return np.array([value[0] for value in self._scored(rows)])


class TargetLikelihoods(Likelihoods):
    """Of targets behind sources."""

    def __init__(self, model, tokenizer):
        self.sides = Sides.of(tokenizer)
        super().__init__(model, self.sides.target)

    def log_probabilities(self, texts):
        raise TypeError(
            "A Seq2SeqLM gives probabilities to answers to a text, and not to a text alone: measure it by bbq, or by "
            "templates that have a prompt and a continuation."
        )

    def continuations(self, prompts, texts):
        sources = self.sides.encode_sources(list(prompts))
        config = self.model.config
        beginning = {"decoder_start_id": config.decoder_start_id, "forced_bos_id": config.forced_bos_id}
        targets = self.sides.encode_targets([text.strip() for text in texts], **beginning)
        rows = zip(sources, targets, strict=True)
        return self._scored(
            [{"source_ids": source, "target_ids": target[:-1], "labels": target[1:]} for source, target in rows]
        )

    def _inputs(self, arrays):
        source = arrays["source_ids"]
        ids = {"source_ids": np.maximum(source, 0), "target_ids": np.maximum(arrays["target_ids"], 0)}
        return {**ids, "source_mask": source >= 0}
