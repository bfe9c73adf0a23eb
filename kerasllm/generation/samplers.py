"""How the next token is chosen from logits.

A sampler decides one step. Its settings (temperature, top-k, …) are tensors of the graph, so that changing them does
not compile anew. Shapes: B batch, V vocab.
"""

import dataclasses
import functools
import math

import numpy as np
from keras import ops

from kerasllm import backend
from kerasllm.generation.options import real_number, whole_number

NAMES = ("greedy", "random", "top_k", "top_p", "min_p")
SETTINGS = ("temperature", "top_k", "top_p", "min_p")
KNOWN_WHEN_RUN = (None, False, None)  # The `graph_key` of a `Sampler` whose settings the running graph alone knows.


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Settings of a sampler.

    Args:
        temperature: float, divides the logits; 0 takes the most likely token.
        top_k: int, keep this many of the most likely tokens; 0 keeps all.
        top_p: float, keep the fewest tokens whose probabilities reach this sum (https://arxiv.org/abs/1904.09751).
        min_p: float, keep tokens at least this likely in proportion to the likeliest
            (https://arxiv.org/abs/2407.01082).
        choose: a callable (logits (B, V), seed) -> ids (B,) that decides instead, or None. `seed` is an int32 pair,
            different at each step.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    choose: object = None

    def __post_init__(self):
        object.__setattr__(self, "top_k", whole_number("top_k", self.top_k, 0))
        for name in ("temperature", "top_p", "min_p"):
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        limits = {
            "temperature": (0 <= self.temperature < math.inf, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "more than 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
        }
        for name, (good, range_) in limits.items():
            if not good:
                raise ValueError(f"`{name}` must be {range_}, got {getattr(self, name)!r}.")

    @property
    def graph_key(self):
        """What the graph of a draw depends on, apart from the settings that it takes as inputs."""
        greedy = self.temperature == 0 or self.top_k == 1
        filters = not greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)
        return self.choose, greedy, filters

    def settings(self):
        """The settings that the graph of a draw takes as inputs, a dict of scalar arrays."""
        return {
            "temperature": np.array(self.temperature, "float32"),
            "top_k": np.array(self.top_k, "int32"),
            "top_p": np.array(self.top_p, "float32"),
            "min_p": np.array(self.min_p, "float32"),
        }


def get_sampler(sampler=None, temperature=None, top_k=None, top_p=None, min_p=None):
    """Reads what a user may mean by a sampler.

    Args:
        sampler: one of `NAMES`, a `Sampler`, a callable (logits, seed) -> ids, or a keras_nlp GreedySampler,
            RandomSampler, TopKSampler or TopPSampler. None is "random" where a setting is given, and else "greedy".
        temperature, top_k, top_p, min_p: as for `Sampler`, for a sampler given by name. "top_k" alone keeps 50 tokens,
            "top_p" a probability of 0.95, "min_p" tokens at least 0.05 times as likely as the likeliest.

    Raises:
        ValueError: if the name is unknown, or the settings do not go with the sampler.
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    given = {name: value for name, value in given.items() if value is not None}
    if sampler is None:
        sampler = "random" if given else "greedy"
    if isinstance(sampler, str):
        if sampler not in NAMES:
            raise ValueError(f"Unknown sampler {sampler!r}. Use one of {', '.join(NAMES)}, or a callable.")
        defaults = {"top_k": {"top_k": 50}, "top_p": {"top_p": 0.95}, "min_p": {"min_p": 0.05}}.get(sampler, {})
        if sampler != "greedy":
            return Sampler(**{**defaults, **given})
        if given and given != {"temperature": 0}:
            raise ValueError(
                f"The greedy sampler takes no {' or '.join(given)}: it always takes the likeliest token. Leave it out, "
                "or use sampler='random' with these settings."
            )
        return Sampler(temperature=0.0)
    if given:
        raise ValueError(f"{', '.join(given)} go with a sampler given by name, not with {sampler!r}.")
    if isinstance(sampler, Sampler):
        return sampler
    if type(sampler).__module__.startswith(("keras_hub", "keras_nlp")):
        return _from_keras_nlp(sampler)
    if callable(sampler) and not isinstance(sampler, type):
        return Sampler(choose=sampler)
    raise TypeError(f"`sampler` must be a name ({', '.join(NAMES)}) or a callable, got {sampler!r:.80}.")


def _from_keras_nlp(sampler):
    kind = type(sampler).__name__
    temperature = float(getattr(sampler, "temperature", 1.0))
    if kind == "GreedySampler":
        return Sampler(temperature=0.0)
    if kind == "RandomSampler":
        return Sampler(temperature)
    if kind == "TopKSampler":
        return Sampler(temperature, top_k=sampler.k)
    if kind == "TopPSampler":
        return Sampler(temperature, top_k=sampler.k or 0, top_p=sampler.p)
    raise ValueError(f"keras_nlp's {kind} is not supported; its Greedy, Random, TopK and TopP samplers are.")


def sample(graph_key, settings, logits, seed, finish=lambda logits: logits):
    """Draws one token for each row.

    Args:
        graph_key, settings: of a `Sampler`. For `KNOWN_WHEN_RUN` settings may be (B, 1), one for each row.
        logits: float32 (B, V).
        seed: int32 (2,), or (B, 2), which draws for each row what it would draw alone.
        finish: function (B, V) -> (B, V) of logits that have been scaled and filtered.

    Returns:
        int32 (B,).
    """
    if graph_key == KNOWN_WHEN_RUN:
        return _sampled_as_asked(settings, logits, seed, finish)
    choose, greedy, filters = graph_key
    if choose is not None:
        return ops.cast(choose(finish(logits), seed), "int32")
    if greedy:
        return ops.cast(ops.argmax(finish(logits), axis=-1), "int32")
    # Temperature 0 is greedy also where it is known to the running graph only: no scaling, no noise.
    hot = settings["temperature"] > 0
    scaled = logits / ops.where(hot, settings["temperature"], 1.0)
    if filters:
        scaled = keep_likely(scaled, settings["top_k"], settings["top_p"], settings["min_p"])
    # The Gumbel-max trick: the arg max of logits plus this noise is a draw from their softmax.
    uniform = _uniform(ops.shape(logits), seed)
    noise = ops.where(hot, -ops.log(-ops.log(uniform)), 0.0)
    return ops.cast(ops.argmax(finish(scaled) + noise, axis=-1), "int32")


def _sampled_as_asked(settings, logits, seed, finish):
    """As `sample`; what the settings do not ask for, such as to look for the likeliest, is not done."""

    def kind(greedy, filters):
        return lambda: sample((None, greedy, filters), settings, logits, seed, finish)

    filters = ops.logical_or(settings["top_k"] > 0, ops.logical_or(settings["top_p"] < 1, settings["min_p"] > 0))
    drawn = functools.partial(ops.cond, ops.any(filters), kind(False, True), kind(False, False))
    return ops.cond(ops.any(settings["temperature"] > 0), drawn, kind(True, False))


def _uniform(shape, seed):
    if len(seed.shape) == 1:
        return backend.stateless_uniform(shape, seed)
    rows = backend.one_by_one(lambda row: backend.stateless_uniform((1, shape[1]), seed[row]), seed.shape[0], "float32")
    return rows[:, 0]


def keep_likely(logits, top_k, top_p, min_p):
    """Sets the logits that top-k, then top-p, then min-p leave out to minus infinity; ties are kept.

    The lowest that is kept is found by halving what lies between the lowest and the highest: to sort a large
    vocabulary takes many times as long.

    Args:
        logits: float32 (B, V).
        top_k: int scalar; 0 keeps all. top_p, min_p: float scalars; 1 and 0 keep all.

    Returns:
        float32 (B, V).
    """
    order, likelihood = _in_order(logits), ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    top_k = ops.minimum(top_k, order.shape[-1])
    lowest, highest = (pick(order, axis=-1, keepdims=True) for pick in (ops.min, ops.max))

    def of_those(values, at_least):
        return ops.sum(ops.where(order >= at_least, values, ops.zeros_like(values)), axis=-1, keepdims=True)

    in_top_k = _last_true(lambda at: of_those(ops.ones_like(order), at) >= top_k, lowest, highest, top_k > 0)
    # Of those that tie for the last of the k places, as many count as there are places.
    above = order > in_top_k
    places = top_k - ops.sum(ops.cast(above, "int32"), axis=-1, keepdims=True)
    last = ops.max(ops.where(above, 0.0, likelihood), axis=-1, keepdims=True)
    mass = of_those(likelihood, in_top_k + 1) + ops.cast(places, "float32") * last
    mass = top_p * ops.where(top_k > 0, mass, ops.sum(likelihood, axis=-1, keepdims=True))
    in_top_p = _last_true(lambda at: of_those(likelihood, at) >= mass, in_top_k, highest, top_p < 1)
    keep = ops.logical_and(order >= in_top_p, ops.logical_or(likelihood >= min_p, order == highest))
    return ops.where(keep, logits, -float("inf"))


def _in_order(values):
    """int32 numbers in the order of float32 values."""
    bits = ops.view(ops.where(values == 0, 0.0, values), "int32")  # zeros of both signs are equal
    return ops.where(bits < 0, ops.bitwise_xor(bits, np.int32(2**31 - 1)), bits)


def _last_true(holds, low, high, wanted):
    """The last int32 number from `low` to `high`, each (B, 1), for which a condition holds that holds up to some
    number; `low`, where it is not wanted."""

    def halve(low, high):
        # Their mean, rounded up. Their sum may be too large for a number.
        middle = ops.bitwise_or(low, high) - ops.right_shift(ops.bitwise_xor(low, high), 1)
        true = holds(middle)
        return ops.where(true, middle, low), ops.where(true, high, middle - 1)

    high = ops.where(wanted, high, low)
    return backend.while_loop(lambda low, high: ops.any(low < high), halve, (low, high))[0]
