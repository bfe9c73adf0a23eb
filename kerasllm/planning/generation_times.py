"""How long this machine takes to generate: what there is to do, and what that took in runs that were measured."""

import dataclasses
from typing import NamedTuple

from kerasllm.generation.buffers import prompt_bucket
from kerasllm.planning.interpolation import between

_ROUNDS = 5
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class GenerationWork(NamedTuple):
    """What there is to do behind a prompt of so many tokens.

    Attributes:
        rows: int, texts that are written at once.
        weights: int, that a step reads.
        cache_bytes: float, of keys and values that a step reads.
        layer_flops: list of float, of the products of each layer's kernels with the prompt.
        scores: float, of attention within the prompt.
    """

    rows: int
    weights: int
    cache_bytes: float
    layer_flops: list
    scores: float

    @classmethod
    def of(cls, config, rows, tokens, dtype):
        """Of a TransformerConfig and rows of so many tokens, of whose bucket all places are computed."""
        tokens = prompt_bucket(tokens, config.max_length)
        layers, D, H = config.options_by_layer(), config.d_model, config.num_heads
        weights = config.num_parameters(embeddings=False, of_tokens=rows)
        weights += config.tie_embeddings * config.vocab_size * config.embedding_width
        cached = sum(cached_numbers(options, config) * seen_tokens(options, tokens) for options in layers)
        of_token = (2 * options.block_parameters(D, H, config.dff, of_tokens=1) for options in layers)
        pairs = sum(options.attention_pairs(tokens, True) for options in layers)
        return cls(
            rows,
            weights,
            rows * cached * NUMBER_BYTES[dtype],
            [rows * tokens * flops for flops in of_token],
            rows * tokens * H * pairs,
        )


def cached_numbers(options, config):
    """Numbers of keys and values of a token in a layer."""
    K, h = options.num_kv_heads or config.num_heads, options.head_dim or config.d_model // config.num_heads
    return 2 * K * h


def seen_tokens(options, tokens):
    """Of so many tokens, those that a layer's cache has."""
    return min(options.attention_window or tokens, tokens)


@dataclasses.dataclass(frozen=True)
class GenerationTimes:
    """How long generation takes in one dtype.

    Args:
        steps: list of (rows, list of (weights, seconds)): for each weight that a step of so many rows reads, by how
            many there are, as small models fit the processor's own memory.
        prompts: list of (FLOPs, FLOP/s), of a layer's products with a whole prompt.
        caches: list of (bytes, seconds), of a step, for each byte of the cache, by how many it reads.
        scores: list of (scores, seconds), for each score of attention within a prompt, by how many there are.
    """

    steps: list
    prompts: list
    caches: list
    scores: list

    @classmethod
    def fitted(cls, short, long):
        """Fits them to runs, tuples of `GenerationWork`, the seconds of its prompt and those of a step.

        Args:
            short: list of runs, of models of several sizes by several numbers of rows, behind short prompts.
            long: list of runs behind long prompts.
        """
        times = cls([], [], [(1, 0.0)], [(1, 0.0)])
        for _ in range(_ROUNDS):  # what is short has a little of what is long, and the other way round
            steps, prompts = {}, []
            for work, of_prompt, of_step in sorted(short, key=lambda run: run[0].weights):
                of_weights = of_step - times.cache_seconds(work)
                steps.setdefault(work.rows, []).append((work.weights, of_weights / work.weights))
                of_kernels = of_prompt - times.score_seconds(work)
                prompts.append((work.layer_flops[0], sum(work.layer_flops) / of_kernels))
            times = dataclasses.replace(times, steps=sorted(steps.items()), prompts=sorted(prompts))
            caches, scores = [], []
            for work, of_prompt, of_step in long:
                reading = max(of_step - times.weight_seconds(work), 0.0)
                scoring = max(of_prompt - times.kernel_seconds(work), 0.0)
                caches.append((work.cache_bytes, reading / work.cache_bytes))
                scores.append((work.scores, scoring / work.scores))
            times = dataclasses.replace(times, caches=sorted(caches), scores=sorted(scores))
        return times

    def step_seconds(self, work):
        """Of a step, which gives a token to each row."""
        return self.weight_seconds(work) + self.cache_seconds(work)

    def prompt_seconds(self, work):
        """Until a prompt is read and each row has its first token."""
        return self.kernel_seconds(work) + self.score_seconds(work)

    def weight_seconds(self, work):
        """The part of a step that grows with the weights: along a line over the rows."""
        (few, of_few), *_, (many, of_many) = self.steps
        of_few, of_many = between(of_few, work.weights), between(of_many, work.weights)
        return work.weights * (of_few + (of_many - of_few) * (work.rows - few) / (many - few))

    def cache_seconds(self, work):
        return work.cache_bytes * between(self.caches, work.cache_bytes)

    def kernel_seconds(self, work):
        return sum(flops / between(self.prompts, flops) for flops in work.layer_flops)

    def score_seconds(self, work):
        return work.scores * between(self.scores, work.scores)
