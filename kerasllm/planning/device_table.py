"""Machines that a plan can be made for: this one, and those of a table with its sources."""

import dataclasses
from pathlib import Path

from kerasllm.files import read_yaml_file
from kerasllm.planning.calibration import Calibration
from kerasllm.words import advice

THIS = "this"
TABLE = Path(__file__).with_name("devices.yaml")
# Of the products that a data sheet promises, what training reaches in well-kept programs: PaLM's 46 % and below.
SHARE_OF_PEAK = 0.4
_UNITS = {"memory_gb": ("memory_bytes", 1e9), "gb_per_second": ("bandwidth", 1e9), "tflops": ("flops", 1e12)}
_FIELDS = (*_UNITS, "watts", "usd_per_hour", "share_of_peak", "source")


@dataclasses.dataclass(frozen=True)
class Device:
    """What computes.

    Attributes:
        name: str.
        memory_bytes: float or None, what there is for a process once it has started; None where nobody knows.
        bandwidth: float or None, bytes per second.
        flops: dict from dtype to FLOP/s that are promised; empty for this machine, which is measured.
        watts, usd_per_hour: float or None.
        share_of_peak: float, the share of these FLOP/s that is taken for what training reaches.
        source: str, where that is written.
        calibration: Calibration, of this machine; the defaults of memory for others.
    """

    name: str = THIS
    memory_bytes: float | None = None
    bandwidth: float | None = None
    flops: dict = dataclasses.field(default_factory=dict)
    watts: float | None = None
    usd_per_hour: float | None = None
    share_of_peak: float = SHARE_OF_PEAK
    source: str = ""
    calibration: Calibration = dataclasses.field(default_factory=Calibration)

    @property
    def is_this(self):
        return self.name == THIS


def devices(path=None):
    """The devices that there are.

    Args:
        path: of a YAML file of your own, with entries as in `kerasllm/planning/devices.yaml`, or None. What it says
            wins over what the table says; "this" may have `watts` and `usd_per_hour` too.

    Returns:
        A dict from name to `Device`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of this form.

    Example:
        >>> kerasllm.planning.devices()["h100"].memory_bytes
        80000000000.0
    """
    entries = _read(TABLE)
    for name, entry in (_read(path) if path else {}).items():
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {name} takes fields such as usd_per_hour, not {entry!r}.")
        entries[name] = {**entries.get(name, {}), **entry}
    own = _device(THIS, {**entries.pop(THIS, {})}, path)
    calibration = Calibration.kept()
    this = dataclasses.replace(
        own, memory_bytes=available_bytes(), bandwidth=calibration.bandwidth, calibration=calibration
    )
    return {THIS: this, **{name: _device(name, entry, path) for name, entry in entries.items()}}


def device_of(name, path=None):
    """A device by its name; a `Device` as it is."""
    if isinstance(name, Device):
        return name
    known = devices(path)
    if name not in known:
        told = advice(name, list(known), {}) or f". There are {', '.join(known)}; --devices takes a file with others."
        raise ValueError(f"There is no device {name!r}{told}")
    return known[name]


def _read(path):
    entries = read_yaml_file(path, f"There is no file of devices {path}.")
    if not isinstance(entries, dict):
        raise ValueError(f"{path} must hold lines such as `h100: {{usd_per_hour: 2.5}}`.")
    return entries


def _device(name, entry, path):
    fields = {}
    for field, value in entry.items():
        if field not in _FIELDS:
            raise ValueError(f"{path}: a device has no {field!r}; its fields are {', '.join(_FIELDS)}.")
        ours, unit = _UNITS.get(field, (field, 1))
        numbers = value.values() if isinstance(value, dict) else [value]
        if field != "source" and not all(isinstance(number, int | float) and number > 0 for number in numbers):
            raise ValueError(f"{path}: {field} of {name} takes numbers above 0, not {value!r}.")
        scaled = {dtype: unit * number for dtype, number in value.items()} if isinstance(value, dict) else value
        fields[ours] = scaled * unit if isinstance(scaled, int | float) and unit != 1 else scaled
    return Device(name, **fields)


# Where addresses are limited: threads reserve so many of them, and the allocator up to twice what it hands out.
_ADDRESSES_OF_THREADS, _RESERVED = 640e6, 2


def available_bytes():
    """Bytes that this process may still take, by what Linux says of memory, of the control group and of limits of the
    process; None where it says nothing."""
    found = []
    if (free := _field("/proc/meminfo", "MemAvailable")) is not None:
        found.append(free)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, used = _number(limit), _number(used)
        if limit is not None and used is not None:
            found.append(limit - used)
    found += _limits_of_process()
    return max(min(found), 0) if found else None


def _limits_of_process():
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, used = resource.getrlimit(limit)[0], _field("/proc/self/status", field)
        if most != resource.RLIM_INFINITY and used is not None:
            yield (most - used - _ADDRESSES_OF_THREADS) / _RESERVED


def _field(path, name):
    """A field of a file of Linux, in bytes."""
    try:
        for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path):
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max"
        return None
