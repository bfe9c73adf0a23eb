"""A causal model as tests ask it: how likely endings of texts are, and how texts go on."""

import warnings

import keras

from kerasllm.generation.endings import score_endings
from kerasllm.generation.text import generate
from kerasllm.models import CausalLM
from kerasllm.progress import progress_bar
from kerasllm.tokenizers import Tokenizer, as_tokenizer

_LOGITS_AT_ONCE = 2**26  # 256 MB in float32


class Respondent:
    """A `CausalLM` and its tokenizer, which answer what tests ask in batches of texts of about one length.

    Args:
        model: a `CausalLM`.
        tokenizer: its `Tokenizer`.
        batch_size: int, the most texts that are read or continued at once.

    Raises:
        TypeError: if the model is not a `CausalLM`.
    """

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, batch_size: int = 32):
        if not isinstance(model, CausalLM):
            raise TypeError(f"Such tasks are for a CausalLM, got a {type(model).__name__}.")
        self.model, self.tokenizer, self.batch_size = model, as_tokenizer(tokenizer), batch_size

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        return self.model.config.max_length

    @property
    def prefix(self) -> int | None:
        """The token before a text of which all tokens are scored, or None where nothing says how texts begin."""
        start, end = self.tokenizer.start_id, self.tokenizer.end_id
        return end if start is None else start

    def encode(self, text: str, *, parse_special: bool = False, bare: bool | None = None) -> list[int]:
        """Ids of a text, with what the tokenizer puts around texts.

        Args:
            text: str.
            parse_special: bool, whether special tokens in the text are read as such.
            bare: bool, whether what stands around texts is left out; None where the text has it already.
        """
        start = self.tokenizer.start_id
        is_begun = start is not None and text.startswith(self.tokenizer.decode([start], skip_special=False))
        bare = is_begun if bare is None else bare
        return next(self.tokenizer.encode_stream([text], parse_special or is_begun, bare)).tolist()

    def encode_pair(self, context: str, ending: str) -> tuple[list[int], list[int]]:
        """Ids of a text and of its ending, as they are where both are one text. Spaces between them are the ending's.

        As lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness, does it.
        """
        if not context:
            ids = self.encode(ending, bare=True)
            return (ids[:1], ids[1:]) if self.prefix in (None, ids[0]) else ([self.prefix], ids)
        before = self.encode(context.rstrip())
        return before, self.encode(context + ending)[len(before) :]

    def encode_question(self, text: str) -> list[int]:
        """Ids of a text that is to be answered: of the user's turn in a chat where the tokenizer has a template."""
        if self.tokenizer.chat_template:
            return self.tokenizer.encode_chat([{"role": "user", "content": text}])
        return self.encode(f"{text}\n\n")

    def log_likelihoods(self, pairs: list, *, cut: bool = False, show: bool = True) -> list[tuple[float, bool]]:
        """How likely endings are. Contexts that several endings share are read once.

        Args:
            pairs: list of (context, ending), lists of token ids that are not empty.
            cut: bool, whether contexts that are too long are cut at the left.
            show: bool, whether a bar shows what is done.

        Returns:
            For each, the log-probability of its ending, and whether greedy decoding would write it.

        Raises:
            ValueError: if a text is longer than the model's context, or with `cut` an ending is.
        """
        pairs = [_fitting(context, ending, self.max_length, cut) for context, ending in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), pairs[i][0], -len(pairs[i][1])))
        found: list = [None] * len(pairs)
        with progress_bar(show=show, transient=True) as bar, warnings.catch_warnings():
            # Keras', where a text begins with a single token.
            warnings.filterwarnings("ignore", "You are using a softmax over axis -1")
            task = bar.add_task("scoring", total=len(pairs), unit="texts")
            for batch in self._batches([(i, *pairs[i]) for i in order]):
                rows, contexts, endings = zip(*batch, strict=True)
                log_probs, is_greedy = score_endings(self.model, contexts, endings)
                for row, *score in zip(rows, log_probs.tolist(), is_greedy.tolist(), strict=True):
                    found[row] = tuple(score)
                bar.update(task, advance=len(rows))
        return found

    def continuations(
        self, prompts: list[list[int]], max_new_tokens: int, *, show: bool = True, **options
    ) -> list[str]:
        """How texts go on.

        Args:
            prompts: list of lists of token ids; of those that are too long the beginning is left out.
            max_new_tokens: int.
            show: bool, whether a bar shows what is done.
            **options: as for `kerasllm.generate`, such as `stop`.

        Raises:
            ValueError: if so many new tokens do not fit the model's context.
        """
        most = self.max_length - max_new_tokens
        if most < 1:
            raise ValueError(f"{max_new_tokens} new tokens do not fit the model's context of {self.max_length}.")
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        found = [""] * len(prompts)
        with progress_bar(show=show, transient=True) as bar:
            task = bar.add_task("writing", total=len(prompts), unit="texts")
            for first in range(0, len(order), self.batch_size):
                rows = order[first : first + self.batch_size]
                texts = [prompts[row][-most:] for row in rows]
                written = generate(self.model, self.tokenizer, texts, max_new_tokens, **options)
                for row, text in zip(rows, written, strict=True):
                    found[row] = text
                bar.update(task, advance=len(rows))
        return found

    def _batches(self, rows):
        """Lists of (row, context, ending), so long that their logits fit into memory."""
        most = _LOGITS_AT_ONCE // self.model.config.vocab_size
        batch, longest = [], 0
        for row in rows:
            longest = max(longest, len(row[2]))
            if batch and (len(batch) == self.batch_size or longest * (len(batch) + 1) > most):
                yield batch
                batch, longest = [], len(row[2])
            batch.append(row)
        yield from [batch] if batch else []


def _fitting(context, ending, most, cut):
    """A pair of lists of ids, of which all but the last token fit."""
    if len(ending) > most or (not cut and len(context) + len(ending) > most + 1):
        size = len(ending) if cut else len(context) + len(ending)
        raise ValueError(f"A text of {size} tokens does not fit the model's context of {most}.")
    return context[-(most + 1 - len(ending)) :], ending
