"""Several processes, on one host or many, that train one model."""

from kerasllm import backend

_HEARTBEAT = 30  # seconds after which one that is not heard of is taken for dead, and the others end


def initialize(coordinator=None, processes=None, process=None):
    """Joins the processes that train one model; each calls it first of all, before anything is computed.

    Without arguments JAX finds out by itself: on Slurm, Kubernetes, Open MPI and Cloud TPU.

    Args:
        coordinator: str "HOST:PORT", of the first process, which the others can reach.
        processes: int, how many there are.
        process: int, the number of this one, from 0 on.

    Raises:
        ValueError: if the backend is not JAX, or the numbers are not possible.

    Example:
        >>> kerasllm.distribution.initialize("10.0.0.1:1234", processes=2, process=0)
        >>> kerasllm.distribution.use(kerasllm.distribution.mesh(fsdp=-1))  # over the devices of both
    """
    if not backend.IS_JAX:
        raise ValueError("Several processes train one model on the JAX backend: set KERAS_BACKEND=jax.")
    if processes is not None and not 0 <= process < processes:
        raise ValueError(f"Of {processes} processes the numbers are 0 to {processes - 1}, got {process}.")
    import jax
    import keras

    patience = {"heartbeat_timeout_seconds": _HEARTBEAT, "shutdown_timeout_seconds": _HEARTBEAT}
    jax.distributed.initialize(coordinator, processes, process, **patience)
    keras.src.backend.distribution_lib.initialize_rng()  # the same seed in all
