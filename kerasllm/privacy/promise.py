"""What a run of `kerasllm train --dp-epsilon` keeps to: its noise, its chance, and what is recorded of both."""

import secrets
from pathlib import Path

from kerasllm.files import read_json, write_json
from kerasllm.privacy.account import Account
from kerasllm.privacy.accounting import epsilon, noise_multiplier_for
from kerasllm.privacy.dp_adamw import DPAdamW

_SEED = "secret_seed.json"  # of the batches: who knows which rows were drawn is promised less


class Promise:
    """An epsilon that a training run keeps to.

    Args:
        epsilon, delta, clip_norm: floats, see `privacy.epsilon` and `DPAdamW`.
        folder: path of the run folder, where the seed of the batches is until the run has ended.
    """

    def __init__(self, epsilon, delta, clip_norm, folder):
        self._epsilon, self._delta, self._clip_norm = epsilon, delta, clip_norm
        path = Path(folder) / _SEED
        if not path.exists():
            write_json(path, {"seed": secrets.randbits(63)})
            path.chmod(0o600)
        self._seed = read_json(path)["seed"]

    @property
    def drawing(self):
        """What data sets are made with: batches by chance, from a seed that nobody knows."""
        return {"poisson": True, "seed": self._seed}

    def begin(self, dataset, steps):
        """Finds the noise.

        Args:
            dataset: one of `kerasllm.data`, made with `drawing`.
            steps: int, of the whole run.

        Raises:
            ValueError: where no noise keeps the promise.
        """
        self._drawn = {"examples": dataset.num_examples, "batch_size": dataset.batch_size, "delta": self._delta}
        self._steps = steps
        self.noise_multiplier = noise_multiplier_for(epsilon=self._epsilon, steps=steps, **self._drawn)

    def optimizer(self, learning_rate, **options):
        """The `DPAdamW` of the run."""
        given = {"noise_multiplier": self.noise_multiplier, "clip_norm": self._clip_norm}
        return DPAdamW(learning_rate, **given, batch_size=self._drawn["batch_size"], **options)

    def account(self):
        """The callback that shows what the steps so far have given away."""
        return Account(**self._drawn)

    def record(self):
        """What was promised and kept, a dict of plain JSON types."""
        run = {"noise_multiplier": self.noise_multiplier, "steps": self._steps, **self._drawn}
        by = {"epsilon": "pld", "epsilon_rdp": "rdp"}
        found = {name: epsilon(accountant=accountant, **run) for name, accountant in by.items()}
        said = {"clip_norm": self._clip_norm, "sampling": "poisson", "protects": "one row of the training data"}
        return found | run | said


def forget(folder):
    """Removes the seed of the batches."""
    (Path(folder) / _SEED).unlink(missing_ok=True)
