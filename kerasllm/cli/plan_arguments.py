"""The flags of `kerasllm plan`."""

from kerasllm.cli.mesh_arguments import add_mesh_argument
from kerasllm.settings.general_settings import OPTIMIZERS, PRECISIONS
from kerasllm.settings.names import MODEL_FLAGS
from kerasllm.settings.train_settings import QUANTIZED

_REMAT = ("block", "attention", "feed_forward")


def add_plan_arguments(command, positive):
    """Adds them to a command; `positive` makes types of numbers above 0."""
    whole, number = positive(int), positive(float)
    command.add_argument("--calibrate", action="store_true", help="measure this machine first, and keep what was found")
    model = command.add_argument_group("the model")
    model.add_argument("--preset", metavar="NAME", help="a published model or family, such as gpt2 or llama-3-8b")
    model.add_argument("--config", metavar="YAML", help="settings of kerasllm train: those of the model are read")
    for name in ("num_layers", "d_model", "num_heads", "dff", "max_length"):
        flags = [f"--{name.replace('_', '-')}", *(["--context"] if name == "max_length" else [])]
        model.add_argument(*flags, dest=name, type=whole, metavar="N", help=MODEL_FLAGS[name]["help"])
    model.add_argument("--vocab-size", type=whole, metavar="N", help="ids of the tokenizer (default: the preset's)")
    field = {"dest": "model", "action": "append", "default": [], "metavar": "model.FIELD=VALUE"}
    model.add_argument("--set", **field, help="any field of TransformerConfig")
    training = command.add_argument_group("how it is trained")
    training.add_argument(
        "--data", metavar="COUNT", help="tokens to train on, such as 300M, or a folder of token files or text"
    )
    training.add_argument("--batch-size", type=whole, default=32, metavar="N", help="rows in a batch (default: 32)")
    training.add_argument("--micro-batches", type=whole, default=1, metavar="N", help="parts of a batch (default: 1)")
    training.add_argument("--loss-chunk", type=whole, metavar="N", help="tokens whose logits exist at a time")
    training.add_argument("--remat", choices=_REMAT, help="what the backward pass computes again")
    training.add_argument("--precision", choices=PRECISIONS, default="auto", help="as in train (default: auto)")
    training.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw")
    training.add_argument("--rank", type=whole, metavar="N", help="train low-rank adapters of this rank alone")
    training.add_argument("--quantize", choices=QUANTIZED, help="keep the kernels beside adapters in so many bits")
    where = command.add_argument_group("on what, and how much of it")
    where.add_argument("--device", default="this", metavar="NAME", help="this machine, or one of a table, such as h100")
    where.add_argument("--devices", metavar="YAML", help="your own table, with your prices: usd_per_hour")
    where.add_argument("--memory", metavar="SIZE", help="memory that there is, such as 8GB, in place of what is free")
    where.add_argument("--budget-hours", type=number, metavar="X", help="how many tokens that is enough for")
    where.add_argument("--budget-usd", type=number, metavar="X", help="likewise, by the price of the device")
    tpus = command.add_argument_group("compiled for TPUs, which need not be there (JAX, and its extra tpu)")
    tpus.add_argument("--compile", action="store_true", help="have their compiler say what a step takes, chip by chip")
    tpus.add_argument("--topology", metavar="SLICE", help="of which chips, such as v5e:4x4 or v5p:2x2x1")
    add_mesh_argument(tpus)
    command.add_argument("--json", action="store_true", help="print JSON in place of tables")
    command.add_argument("--out", metavar="FILE", help="draw memory by part, also of what makes it fit, a .png or .svg")
