"""`kerasllm serve`: models behind OpenAI's addresses, and a page to chat on."""

import os

from kerasllm.cli.filter_files import make_filter, read_filter_file
from kerasllm.cli.startup import start_keras


def run(arguments):
    filter = None if arguments.filter is None else read_filter_file(arguments.filter)
    start_keras()
    from kerasllm.serving.running import serve

    serve(
        arguments.model,
        host=arguments.host,
        port=arguments.port,
        api_key=arguments.api_key or os.environ.get("KERASLLM_API_KEY") or None,
        most_bytes=arguments.max_body,
        quantize=arguments.quantize,
        filter=make_filter(filter),
        rows=arguments.rows,
        queue=arguments.queue,
        seconds=arguments.timeout,
        most_tokens=arguments.max_tokens,
        kept_bytes=arguments.kept_mb * 2**20,
    )
