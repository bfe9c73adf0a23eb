"""`kerasllm explain`: one page about a prediction."""

import os
from pathlib import Path

from kerasllm.cli.shown_files import processor_of
from kerasllm.cli.startup import start_keras


def run(arguments):
    out = Path(arguments.out)
    if out.suffix.lower() != ".html":
        raise ValueError(f"--out is a file that ends in .html, got {arguments.out}.")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists, and is left as it is: name another file, or move it away.")
    start_keras()
    import kerasllm
    from kerasllm import interpret

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    options = {"contrast": arguments.contrast, "method": arguments.method}
    if arguments.image:
        options |= {"image": arguments.image, "processor": processor_of(model, arguments)}
    interpret.explain(model, tokenizer, arguments.text, arguments.target, out, **options)
    print(f"Wrote {out}: open it in a browser.")
