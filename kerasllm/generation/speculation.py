"""Speculative decoding: several tokens are guessed, and one pass of the model says how many of them it writes itself.

Each place is drawn as ever, from the model's own logits with the noise that belongs to the place; a guess only decides
whether the next place's logits are those of the right text. So the text is that of `generate` without guesses, greedy
or drawn, up to the rounding of logits: nothing of the distribution is to be mended afterwards. (A model that guesses
draws with the same noise, so that two that agree on probabilities agree on the draw.)

References: Leviathan et al. 2023, https://arxiv.org/abs/2211.17192; guesses by looking up: Saxena 2023,
https://github.com/apoorvumang/prompt-lookup-decoding.

Shapes: one text; L places, T tokens of a pass, V vocab.
"""

import contextlib
import dataclasses
import functools

import keras
from keras import ops

from kerasllm import backend
from kerasllm.generation.loop import draw_next
from kerasllm.generation.samplers import sample
from kerasllm.generation.stepping import CachedStepper, causal_lm_forward, is_deep
from kerasllm.layers.cache import split_heads
from kerasllm.layers.positions import BIASED
from kerasllm.models import CausalLM
from kerasllm.models.shapes import length_dependent_rotations, output_width

LOOKUP = "lookup"
GUESSES_OF_LOOKUP, GUESSES_OF_A_MODEL = 7, 4
# In steps of one token: what a pass costs beyond its first token (measured: a pass of 8 tokens takes 2.0 of them, and
# what is around it some more), what failed passes may cost, at most and at first, before they stop, and how much of
# that comes back in each step without one.
COST, MOST_CREDIT, FIRST_CREDIT, REGAINED = 1.4, 4.0, 1.5, 0.01


def speculative_stepper(model, draft, num_prompts=1):
    """A stepper that guesses.

    Args:
        model: a `CausalLM`.
        draft: "lookup", or a `CausalLM` with the same vocabulary, a smaller one.
        num_prompts: int, which must be 1, as each text has other guesses.

    Raises:
        TypeError, ValueError: if they do not go together.
    """
    if num_prompts != 1:
        raise ValueError(f"With a `draft` one prompt is continued at a time, got {num_prompts}.")
    for each in (model, *([] if isinstance(draft, str) and draft == LOOKUP else [draft])):
        if not isinstance(each, CausalLM) or type(each).call is not CausalLM.call:
            raise TypeError(f"`draft` is 'lookup' or a CausalLM, for another CausalLM; got a {type(each).__name__}.")
        if length_dependent_rotations(each):
            raise ValueError(f"{each.name} turns all it has read otherwise as a text grows, so it cannot guess ahead.")
        if each is draft and each.transformer.positions in BIASED and is_deep(model):
            raise ValueError(f"A `draft` has rotary, learned or no positions, got {each.transformer.positions!r}.")
    if draft == LOOKUP:
        return SpeculativeStepper(model, LookUp())
    if output_width(draft) != output_width(model):
        widths = output_width(model), output_width(draft)
        raise ValueError(f"`draft` has to have the model's vocabulary of {widths[0]} tokens, and has {widths[1]}.")
    return SpeculativeStepper(model, DraftModel(draft))


class SpeculativeStepper(CachedStepper):
    """Steps of one token, as any, and passes over guesses.

    Args:
        model: CausalLM.
        proposer: a `LookUp` or `DraftModel`.

    Its state is the model's cache, the proposer's, and the credit that passes have.
    """

    def __init__(self, model, proposer):
        super().__init__(model, model.init_cache, causal_lm_forward(model), takes_buffers=is_deep(model))
        self._forward_all = causal_lm_forward(model, last_only=False)
        self.proposer = proposer
        self.variables = proposer.variables
        self.ahead = proposer.count

    def start(self, inputs, padding, prompt_length, prefix=(), first=0):
        logits, cache = super().start(inputs, padding, prompt_length, prefix, first)
        guessing = self.proposer.start(inputs, padding, prompt_length)
        return logits, (cache, guessing, ops.convert_to_tensor(FIRST_CREDIT, "float32"))

    def cache_of(self, state, batch_size):
        return super().cache_of(state[0], batch_size)

    def _empty_cache(self, batch_size, length):
        return self.init_cache(batch_size, length, full=True)  # What is guessed in vain must not push anything out.

    def pass_over(self, cache, ids, tokens, padding, index):
        """Logits (T, V) for the places from `index` on, if `ids` (1, T) stand from the one before it on; and the cache.

        Args:
            tokens: int32 (1, L).
            padding: int32 (1,).
        """
        columns = index - 1 + ops.arange(ids.shape[1], dtype="int32")
        positions = self._positions(columns, padding)
        if not backend.are_buffers(cache):
            cache = split_heads(cache, 1)
        visible = self._visible(tokens, padding)
        logits, cache = self._forward_all({"token_ids": ids}, cache, index - 1, positions, visible)
        return logits[0], self._kept(cache)

    def _guess(self, credit, sampler_key, settings, state, *given):
        """What the proposer guesses; nothing, where a pass may fail and there is no credit left for it."""

        def guess():
            return self.proposer.guess(sampler_key, settings, state, *given)

        def guess_nothing():
            return ops.zeros((self.proposer.count,), "int32"), ops.convert_to_tensor(False), state

        return ops.cond(credit > 0, guess, guess_nothing) if self.proposer.may_fail else guess()

    def loop(self, sampler_key, rule, index, tokens, done, state, rule_state, padding, inputs, limit, settings):
        """As `loop.decode`, for one text."""
        cache, guessing, credit = state
        in_buffers = backend.are_buffers(cache)
        known = backend.read_buffers(credit) if in_buffers else credit

        def draw(*given):
            drawing = functools.partial(draw_next, sampler_key, rule)
            if in_buffers:
                alike = ("draw", sampler_key, rule.graph_key)
                return backend.shared(drawing, settings, *given, variables=(), alike=alike)
            return drawing(settings, *given)

        def is_unfinished(index, tokens, done, *_):
            return ops.logical_and(index < limit, ops.logical_not(done[0]))

        def step(index, tokens, done, rule_state, credit, caches):
            cache, guessing = (state[0], state[1]) if in_buffers else caches
            given = sampler_key, settings, guessing, tokens, padding, index
            guesses, found, guessing = self._guess(credit, *given)

            def one():
                logits, new = CachedStepper.logits(self, cache, {"token_ids": tokens}, padding, index)
                drawn = draw(logits, index, tokens, done, rule_state)
                return *drawn, ops.minimum(credit + REGAINED, MOST_CREDIT), () if in_buffers else new

            def several():
                ids = ops.concatenate([ops.take(tokens[0], [index - 1]), guesses])
                logits, new = self.pass_over(cache, ids[None], tokens, padding, index)
                drawn = _drawn_while_right(draw, ids, logits, limit, index, tokens, done, rule_state)
                gained = ops.cast(drawn[0] - index - 1, "float32") - COST
                return *drawn, ops.minimum(credit + gained, MOST_CREDIT), () if in_buffers else new

            *drawn, credit, new = ops.cond(found, several, one)
            return *drawn, credit, () if in_buffers else (new, guessing)

        carried = index, tokens, done, rule_state, known, () if in_buffers else (cache, guessing)
        *drawn, rule_state, known, caches = backend.while_loop(is_unfinished, step, carried)
        if in_buffers:
            backend.write_buffers(credit, known)
            return *drawn, rule_state
        return *drawn, (*caches, known), rule_state


def _drawn_while_right(draw, ids, logits, limit, index, tokens, done, rule_state):
    """Draws from logits (T, V) as long as what stands before is what they are for; results as of `draw`.

    Args:
        ids: int32 (T,), the last token and the guesses behind it.
    """
    T = ids.shape[0]
    first = index

    def is_right(index, tokens, done, rule_state, agrees):
        may = ops.logical_and(index < limit, ops.logical_not(done[0]))
        return ops.logical_and(agrees, ops.logical_and(may, index - first < T))

    def step(index, tokens, done, rule_state, _):
        new, tokens, done, rule_state = draw(ops.take(logits, [index - first], axis=0), index, tokens, done, rule_state)
        guess = ops.take(ids, ops.minimum(new - first, T - 1))
        return new, tokens, done, rule_state, ops.take(tokens[0], index) == guess

    state = index, tokens, done, rule_state, ops.convert_to_tensor(True)
    return backend.while_loop(is_right, step, state)[:-1]


@dataclasses.dataclass(frozen=True)
class LookUp:
    """Guesses what came after the same two or three tokens before, three rather than two, and the latest time."""

    may_fail = True
    count = GUESSES_OF_LOOKUP
    variables = ()

    def start(self, inputs, padding, prompt_length):
        return ()

    def guess(self, sampler_key, settings, state, tokens, padding, index):
        """Guesses for the places from `index` on, int32 (count,); whether there are any; and the state."""
        row, places = tokens[0], ops.arange(tokens.shape[1], dtype="int32")

        def is_like_last(back):
            alike = ops.roll(row, back) == ops.take(row, ops.maximum(index - 1 - back, 0))
            return ops.logical_and(alike, places - back >= padding[0])

        two = ops.logical_and(ops.logical_and(is_like_last(0), is_like_last(1)), places < index - 1)
        three = ops.logical_and(two, is_like_last(2))
        L = tokens.shape[1]
        best = ops.max(ops.where(three, places + L, ops.where(two, places, -1)))
        behind = ops.minimum(best % L + 1 + ops.arange(self.count, dtype="int32"), L - 1)
        return ops.take(row, behind), best >= 0, state


@dataclasses.dataclass(frozen=True, eq=False)
class DraftModel:
    """Guesses what a smaller model writes.

    Args:
        model: CausalLM.
    """

    model: keras.Model

    may_fail = False
    count = GUESSES_OF_A_MODEL

    @property
    def variables(self):
        return tuple(self.model.variables)

    @functools.cached_property
    def _stepper(self):
        return SpeculativeStepper(self.model, LookUp())

    def start(self, inputs, padding, prompt_length):
        return CachedStepper.start(self._stepper, {"token_ids": inputs["token_ids"]}, padding, prompt_length)[1]

    def guess(self, sampler_key, settings, state, tokens, padding, index):
        """As for `LookUp`. Of the last pass the model may have missed the last guess: so it reads two tokens first."""
        with (
            backend.sharing(vars(self.model).setdefault("_compiled_guesses", {}))
            if backend.are_buffers(state)
            else contextlib.nullcontext()
        ):
            start = ops.maximum(index - 2, 0)
            ids = ops.take(tokens[0], start + ops.arange(2, dtype="int32"))
            logits, state = self._stepper.pass_over(state, ids[None], tokens, padding, start + 1)
            logits, guesses = logits[index - 1 - start][None], []
            for number in range(self.count):
                seed = ops.stack([settings["seed"], index + number - settings["start"]])
                guesses.append(sample(sampler_key, settings, ops.cast(logits, "float32"), seed))
                if number + 1 < self.count:
                    logits, state = self._stepper.pass_over(
                        state, guesses[-1][None], tokens, padding, index + number + 1
                    )
        return ops.concatenate(guesses), ops.convert_to_tensor(True), state
