"""What noise promises: epsilon, by two accountants."""

import math

import numpy as np

from kerasllm.extras import optional

ACCOUNTANTS = ("rdp", "pld")
_ORDERS = (*range(2, 65), *range(68, 257, 4), 320, 512, 1024)
_STEP_OF_LOSSES = 1e-3  # of privacy losses that are told apart; what is between counts as the greater one
_MOST_NOISE = 1e4


def epsilon(*, examples, batch_size, noise_multiplier, delta, epochs=None, steps=None, accountant="rdp") -> float:
    """What training with `DPAdamW` promises: epsilon, for a delta.

    Whatever is told from the weights is at most exp(epsilon) times as likely as if any one example had been absent, but
    for a probability of delta. Examples are rows of the data set, and each is in each batch with the probability
    batch_size / examples, by itself, as `poisson=True` draws them. Batches of a shuffled order are not drawn so, and
    what is said of them is an approximation.

    Args:
        examples: int, rows that batches are drawn from.
        batch_size: float, examples in a batch on average.
        noise_multiplier: float.
        delta: float, well below 1 / examples.
        epochs, steps: float and int, one of them: the length of the training.
        accountant: str. "rdp": Rényi differential privacy, with the conversion of its first paper, which published
            figures are mostly made by. "pld": the distribution of the privacy loss, by the package dp-accounting: the
            lowest figure of what is known, and a promise all the same.

    Returns:
        float; infinite without noise.

    Raises:
        ValueError: if a number is out of range.
        ImportError: for "pld" where dp-accounting is not installed.

    Example:
        >>> round(epsilon(examples=60_000, batch_size=256, noise_multiplier=1.1, epochs=60, delta=1e-5), 2)
        3.01

    References: Mironov 2017, https://arxiv.org/abs/1702.07476; Mironov, Talwar and Zhang 2019,
    https://arxiv.org/abs/1908.10530; Koskela, Jälkö and Honkela 2020, https://arxiv.org/abs/1906.03049
    """
    rate, steps = _checked(examples, batch_size, delta, epochs, steps, accountant)
    if not noise_multiplier >= 0:
        raise ValueError(f"`noise_multiplier` must be at least 0, got {noise_multiplier}.")
    if not steps:
        return 0.0
    if not noise_multiplier:
        return math.inf
    account = _by_losses if accountant == "pld" else _by_orders
    return float(account(rate, noise_multiplier, steps, delta))


def noise_multiplier_for(*, epsilon, examples, batch_size, delta, epochs=None, steps=None, accountant="pld") -> float:
    """The least noise that keeps a promise, to three digits.

    Args:
        epsilon: float above 0, the promise.
        examples, batch_size, delta, epochs, steps, accountant: as in `epsilon`.

    Returns:
        float, what `DPAdamW` takes.

    Raises:
        ValueError: if a number is out of range, or no noise is enough.
        ImportError: for "pld" where dp-accounting is not installed.

    Example:
        >>> noise = noise_multiplier_for(
        ...     epsilon=3.01, examples=60_000, batch_size=256, epochs=60, delta=1e-5, accountant="rdp"
        ... )
        >>> round(noise, 2)
        1.1
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"`epsilon` must be above 0, got {epsilon}.")
    rate, steps = _checked(examples, batch_size, delta, epochs, steps, accountant)
    account = _by_losses if accountant == "pld" else _by_orders
    low, high = 0.0, 1.0
    while account(rate, high, steps, delta) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise ValueError(
                f"No noise keeps epsilon={epsilon} at delta={delta} over {steps} steps: raise one of both."
            )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if account(rate, middle, steps, delta) <= epsilon else (middle, high)
    return math.ceil(high * 1e4) / 1e4


def _checked(examples, batch_size, delta, epochs, steps, accountant):
    """The probability with which an example is in a batch, and the number of steps."""
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"`accountant` is one of {', '.join(ACCOUNTANTS)}, got {accountant!r}.")
    if not 0 < batch_size <= examples:
        raise ValueError(f"`batch_size` must be above 0 and at most examples={examples}, got {batch_size}.")
    if not 0 < delta < 1:
        raise ValueError(f"`delta` must be between 0 and 1, got {delta}.")
    if (epochs is None) == (steps is None):
        raise ValueError(f"Give either `epochs` or `steps`, got epochs={epochs} and steps={steps}.")
    rate = batch_size / examples
    return rate, math.ceil(epochs / rate) if steps is None else steps


def _by_orders(rate, noise, steps, delta):
    """Epsilon by the Rényi divergences of whole orders, which add up over steps."""
    return min(steps * _divergence(rate, noise, order) - math.log(delta) / (order - 1) for order in _ORDERS)


def _divergence(rate, noise, order):
    """The Rényi divergence that a step adds: equation 5 of Mironov, Talwar and Zhang."""
    if rate == 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1)
    choose = np.array([math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1) for i in k])
    terms = choose + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k * k - k) / (2 * noise**2)
    return (terms.max() + math.log(np.exp(terms - terms.max()).sum())) / (order - 1)


def _by_losses(rate, noise, steps, delta):
    """Epsilon by the distribution of the privacy loss of all steps."""
    accounting = optional("dp_accounting dp_accounting.pld", "The distribution of privacy losses is made")
    step = accounting.GaussianDpEvent(noise)
    step = step if rate == 1 else accounting.PoissonSampledDpEvent(rate, step)
    accountant = accounting.pld.PLDAccountant(value_discretization_interval=_STEP_OF_LOSSES)
    accountant.compose(accounting.SelfComposedDpEvent(step, steps))
    return accountant.get_epsilon(delta)
