"""The flag that spreads a run over devices."""

import argparse

AXES = ("data", "fsdp", "tensor")


def add_mesh_argument(command):
    """Adds it to a command."""
    command.add_argument(
        "--mesh",
        type=_sizes,
        metavar="AXIS=DEVICES,...",
        help="spread the run over devices, on JAX: data=N has N whole models with a share of each batch, fsdp=N shares "
        "out batches and weights, tensor=N parts of each layer; they multiply, and -1 stands for the devices left",
    )


def _sizes(text):
    """What `distribution.mesh` takes."""
    sizes = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in AXES or name in sizes or not number.removeprefix("-").isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not like fsdp=4,tensor=2; axes are {', '.join(AXES)}")
        sizes[name] = int(number)
    return sizes
