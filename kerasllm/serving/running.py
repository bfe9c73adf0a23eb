"""A server from its start to its end."""

import contextlib
import ipaddress
import signal
from pathlib import Path

from kerasllm import runs
from kerasllm.extras import optional

SECONDS_TO_FINISH = 30


def serve(
    folders,
    *,
    host="127.0.0.1",
    port=8000,
    api_key=None,
    most_bytes=None,
    quantize=None,
    warm_up=True,
    filter=None,
    **options,
):
    """Serves models until SIGTERM or Ctrl-C; what is being answered then is answered first.

    Args:
        folders: list of what `kerasllm.load` reads. The last part of each is the model's name.
        host, port: where to listen.
        api_key: str or None, what requests have to bring.
        most_bytes: int, of a request's body; None for a megabyte, and 32 where a model sees images.
        quantize: as for `kerasllm.load`.
        warm_up: bool. Compile before the first request comes.
        filter: `kerasllm.safety.Filter`, of prompts and of texts, or None.
        **options: of a `served_models.TextModel`.

    Raises:
        ImportError: where FastAPI, uvicorn or prometheus_client is not installed.
        ValueError: if two models have one name.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        optional(package, "Models are served")
    import uvicorn

    from kerasllm.serving.app import make_app
    from kerasllm.serving.served_models import served_model

    names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"Models are told apart by their folders' names, got {', '.join(names)}: rename one.")
    served = {
        name: served_model(*runs.load(folder, quantize=quantize), **options)
        for name, folder in zip(names, folders, strict=True)
    }
    if most_bytes is None:
        most_bytes = 2**25 if any(model.sees for model in served.values()) else 2**20
    if warm_up:
        for model in served.values():
            model.warm_up()
    is_local = _is_local(host)
    if not is_local and api_key is None:
        print(f"Anyone who reaches {host} may use this server: --api-key asks for a key.", flush=True)
    hosts = ["127.0.0.1", "localhost", "[::1]"] if is_local else None
    app = make_app(served, api_key=api_key, most_bytes=most_bytes, allowed_hosts=hosts, filter=filter)
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
        server_header=False,
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"Serving {', '.join(names)} on http://{shown}:{port} (Ctrl-C ends)", flush=True)
    server_class(uvicorn)(config).run()


def server_class(uvicorn):
    """uvicorn's server, which ends with status 0 after SIGTERM, as it has done what it was told."""

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):
            signals = (signal.SIGTERM, signal.SIGINT)
            before = {number: signal.signal(number, self.handle_exit) for number in signals}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    return Server


def _is_local(host):
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
