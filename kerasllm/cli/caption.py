"""`kerasllm caption`: image files in, what a model writes of them out, a line for each."""

import json

from kerasllm.cli.filter_files import make_filter
from kerasllm.cli.generate import drawing_options
from kerasllm.cli.startup import start_keras


def run(arguments):
    drawing = drawing_options(arguments)
    start_keras()
    import kerasllm

    processor = kerasllm.images.ImageProcessor.load(arguments.processor or arguments.model)
    model, tokenizer = kerasllm.load(arguments.model, quantize=arguments.quantize)
    if not isinstance(model, kerasllm.models.VisionLanguageModel):
        raise TypeError(f"A VisionLanguageModel writes of images, and {arguments.model} has a {type(model).__name__}.")
    drawing["filter"] = make_filter(drawing.get("filter"))
    for file in arguments.image:
        prompt = kerasllm.data.image_prompt(tokenizer, processor, file, arguments.prompt)
        text = " ".join(kerasllm.generate(model, tokenizer, prompt, **drawing).split())
        print(json.dumps({"image": file, "text": text}) if arguments.json else f"{file}\t{text}", flush=True)
