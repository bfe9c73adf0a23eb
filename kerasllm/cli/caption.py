"""`kerasllm caption`: image files in, what a model writes of them out, a line for each."""

import json

from kerasllm.cli.filter_files import make_filter
from kerasllm.cli.generate import drawing_options
from kerasllm.cli.shown_files import processor_of, shown_part
from kerasllm.cli.startup import start_keras


def run(arguments):
    drawing = drawing_options(arguments)
    start_keras()
    import kerasllm

    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    processor = processor_of(model, arguments)
    drawing["filter"] = make_filter(drawing.get("filter"))
    for file in arguments.image:
        part = shown_part(file, arguments)
        prompt = kerasllm.data.image_prompt(tokenizer, processor, part[part["type"]], arguments.prompt)
        text = " ".join(kerasllm.generate(model, tokenizer, prompt, **drawing).split())
        print(json.dumps({"image": file, "text": text}) if arguments.json else f"{file}\t{text}", flush=True)
