"""What torch draws on CPUs, in `keras.ops` and NumPy: its numbers, and which ids `torch.randperm` puts in front.

transformers' watermarks are made of these, so that to write and to find them takes the very same, in the compiled loop
too. The generator is MT19937 (Matsumoto and Nishimura 1998, https://doi.org/10.1145/272991.272995), seeded by the
lower 32 bits of a seed. Shapes: N seeds, V ids, k of them in front.
"""

import functools

import numpy as np
from keras import ops

from kerasllm import backend

_WORDS, _AHEAD = 624, 397  # of the generator's state, and how far apart those are that are mixed
_AT_ONCE = 16  # words of a state that one round of a loop makes


def raw_numbers(seed, count):
    """The first numbers after `torch.manual_seed(seed)`, uint32 (count,), in NumPy."""
    return np.random.RandomState(seed % 2**32)._bit_generator.random_raw(count).astype("uint32")


@functools.lru_cache(maxsize=4)
def permutation(seed, size):
    """`torch.randperm(size)` after `torch.manual_seed(seed)`, a list of int."""
    ids = list(range(size))
    numbers = raw_numbers(seed, size).tolist()
    for place in range(size - 1):
        other = place + numbers[place] % (size - place)
        ids[place], ids[other] = ids[other], ids[place]
    return ids


def in_front(seeds, size, count):
    """Which ids are among the first of `torch.randperm(size)`.

    The shuffle swaps each place in turn with itself or a later one, so that the first k places are as they stay after
    k swaps. What a swap brings to the front stays there, and what it sends back stays there unless a later swap fetches
    it: so an id is in front where its way ends with being fetched, and no swap has to wait for another.

    Args:
        seeds: uint32 (N,), the lower 32 bits of torch's seeds.
        size: int, V.
        count: int, k, less than V.

    Returns:
        bool (N, V).
    """
    N = ops.shape(seeds)[0]
    places = ops.arange(count, dtype="int32")[None]
    left = np.arange(size, size - count, -1, dtype="uint32")
    others = places + ops.cast(ops.mod(_numbers(seeds, count), left[None]), "int32")
    # For each place, the last swap that fetches what is there for another place.
    rows = ops.arange(N, dtype="int32")[:, None] * size
    fetched = ops.reshape(ops.where(others == places, -1, places), (-1,))
    last = ops.segment_max(fetched, ops.reshape(rows + others, (-1,)), N * size)
    last = ops.reshape(last, (N, size))
    # What is sent from place to place: where it goes, or -1 where a swap fetches it to the front, -2 where none does.
    is_last = ops.take_along_axis(last, others, axis=1) == places
    goes = ops.where(is_last, ops.where(others < count, others, -2), -1)

    def follow(goes):
        return (ops.where(goes < 0, goes, ops.take_along_axis(goes, ops.maximum(goes, 0), axis=1)),)

    (goes,) = backend.while_loop(lambda goes: ops.any(goes >= 0), follow, (goes,))
    stays_behind = ops.pad(goes == -2, ((0, 0), (0, size - count)), constant_values=True)
    return ops.logical_or(last >= 0, ops.logical_not(stays_behind))


def _numbers(seeds, count):
    """The first numbers for each seed, uint32 (N, count)."""
    rounds = -(-count // _WORDS)

    def more(number, state, found):
        state = _next_state(state)
        return number + 1, state, backend.slice_update(found, _tempered(state), (0, number * _WORDS))

    found = ops.zeros((ops.shape(seeds)[0], rounds * _WORDS), "uint32")
    state = ops.convert_to_tensor(0, "int32"), _first_state(seeds), found
    return backend.while_loop(lambda number, *_: number < rounds, more, state)[2][:, :count]


def _first_state(seeds):
    def more(number, word, state):
        words = []
        for place in range(1, _AT_ONCE + 1):
            words.append(word)
            mixed = ops.bitwise_xor(word, ops.right_shift(word, np.uint32(30)))
            word = mixed * np.uint32(1812433253) + ops.cast(number * _AT_ONCE + place, "uint32")
        return number + 1, word, backend.slice_update(state, ops.stack(words, axis=1), (0, number * _AT_ONCE))

    empty = ops.zeros((ops.shape(seeds)[0], _WORDS), "uint32")
    begin = ops.convert_to_tensor(0, "int32"), seeds, empty
    return backend.while_loop(lambda number, *_: number < _WORDS // _AT_ONCE, more, begin)[2]


def _next_state(state):
    first = _WORDS - _AHEAD
    mixed = _mixed(state[:, :-1], state[:, 1:])
    one = ops.bitwise_xor(state[:, _AHEAD:], mixed[:, :first])
    two = ops.bitwise_xor(one, mixed[:, first : 2 * first])
    three = ops.bitwise_xor(two[:, : _WORDS - 1 - 2 * first], mixed[:, 2 * first :])
    after = two[:, _WORDS - 1 - 2 * first :][:, :1]
    last = ops.bitwise_xor(after, _mixed(state[:, -1:], one[:, :1]))
    return ops.concatenate([one, two, three, last], axis=1)


def _mixed(word, following):
    high = ops.bitwise_and(word, np.uint32(0x80000000))
    whole = ops.bitwise_or(high, ops.bitwise_and(following, np.uint32(0x7FFFFFFF)))
    odd = ops.bitwise_and(whole, np.uint32(1)) * np.uint32(0x9908B0DF)
    return ops.bitwise_xor(ops.right_shift(whole, np.uint32(1)), odd)


def _tempered(word):
    word = ops.bitwise_xor(word, ops.right_shift(word, np.uint32(11)))
    word = ops.bitwise_xor(word, ops.bitwise_and(ops.left_shift(word, np.uint32(7)), np.uint32(0x9D2C5680)))
    word = ops.bitwise_xor(word, ops.bitwise_and(ops.left_shift(word, np.uint32(15)), np.uint32(0xEFC60000)))
    return ops.bitwise_xor(word, ops.right_shift(word, np.uint32(18)))
