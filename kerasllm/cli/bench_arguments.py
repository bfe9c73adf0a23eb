"""What `kerasllm bench` can measure."""

BENCH_OF_MODELS = ("tune", "real", "served", "edge", "first-answer")
_COMPARED = ("train", "generate", "memory", "context", "prefill", "window", "images", "data", "startup")
BENCH_SUITES = (*_COMPARED, *BENCH_OF_MODELS)
BENCH_STUDIES = ("requests", "corpus", "load", "checkpoint", "cleaning", "example", "speedrun", "gpu")


def add_bench_arguments(command):
    command.add_argument(
        "suite",
        choices=(*BENCH_SUITES, *BENCH_STUDIES),
        help="train, generate, memory (of a large vocabulary), context (as it grows), prefill (of long prompts), "
        "window, images (training on pictures with texts), data or startup; of one model, tune (adapters beside the "
        "whole), real (generation), served (SavedModels), edge (LiteRT) or first-answer (compiling included); of "
        "kerasllm alone, requests, corpus, load or cleaning (memory and speed), checkpoint (what saving and resuming "
        "cost), example (what the documented model learns), speedrun (how long it takes, beside a recipe made to be "
        "quick) or gpu (training steps on one, beside plain torch)",
    )
    command.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each program (default: 5)")
    command.add_argument("--toy", action="store_true", help="a small model, as where there is no GPU (gpu)")
    command.add_argument("--out", metavar="NAME", help="write NAME.json, and NAME.png of what is compared")
    command.add_argument(
        "--megabytes", type=float, metavar="N", help="size of the text (corpus, cleaning) or weights (load)"
    )
    command.add_argument(
        "--data",
        metavar="PATH",
        help="the text (example, speedrun; default: python_docs) or conversations (tune) to learn",
    )
    command.add_argument(
        "--model",
        metavar="FOLDER",
        help="the model, in place of one that is made (tune, real, served, edge, first-answer)",
    )
