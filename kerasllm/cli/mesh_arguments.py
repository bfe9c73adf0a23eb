"""The flag that spreads a run over devices."""

import argparse

AXES = ("data", "fsdp", "expert", "tensor")


def add_mesh_argument(command):
    """Adds it to a command."""
    command.add_argument(
        "--mesh",
        type=_sizes,
        metavar="AXIS=DEVICES,...",
        help="spread the run over devices, on JAX: data=N has N whole models with a share of each batch, fsdp=N shares "
        "out batches and weights, tensor=N parts of each layer, expert=N batches and experts; they multiply, and -1 "
        "stands for the devices left",
    )


def add_process_arguments(command):
    """Adds the flags of a run of several processes."""
    group = command.add_argument_group(
        "of several processes, each with devices of its own, which have --mesh together and see the same folders"
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the first process waits for the others; auto on Slurm, Kubernetes and Cloud TPU, which say all "
        "three of these",
    )
    group.add_argument("--process", type=int, metavar="N", help="the number of this one, from 0 on")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")


def _sizes(text):
    """What `distribution.mesh` takes."""
    sizes = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in AXES or name in sizes or not number.removeprefix("-").isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not like fsdp=4,tensor=2; axes are {', '.join(AXES)}")
        sizes[name] = int(number)
    return sizes
