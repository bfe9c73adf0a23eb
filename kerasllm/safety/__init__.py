"""What keeps the use of models safe: `detect` finds watermarks in texts."""

from kerasllm.safety.detecting import DEFAULT_THRESHOLD, Detection, calibrate, detect

__all__ = ["DEFAULT_THRESHOLD", "Detection", "calibrate", "detect"]
