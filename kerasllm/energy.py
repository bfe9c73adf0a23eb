"""How much energy is used, as codecarbon estimates it, where that is installed."""

import contextlib
import importlib.metadata
import warnings

_COUNTRY = "USA"  # Without a country codecarbon asks the network where it is; energy is the same everywhere.


@contextlib.contextmanager
def energy_used():
    """A context whose energy is measured.

    Yields:
        A dict that is filled at the end: "kwh" of processors, memory and devices of the machine, "seconds", and "by",
        what estimated it. It stays empty where codecarbon is not installed, or fails: nothing ends because of it.
    """
    used, tracker = {}, None
    with contextlib.suppress(ImportError), _told():
        from codecarbon import OfflineEmissionsTracker

        options = {"save_to_file": False, "log_level": "error", "allow_multiple_runs": True}
        begun = OfflineEmissionsTracker(country_iso_code=_COUNTRY, **options)
        begun.start()
        tracker = begun
    try:
        yield used
    finally:
        if tracker is not None:
            with _told():
                tracker.stop()
                found = tracker.final_emissions_data
                by = f"codecarbon {importlib.metadata.version('codecarbon')}"
                used |= {"kwh": float(found.energy_consumed), "seconds": float(found.duration), "by": by}


@contextlib.contextmanager
def _told():
    """Says in a warning what codecarbon fails with."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        warnings.warn(f"The energy is not measured, as codecarbon fails: {error}", stacklevel=2)
