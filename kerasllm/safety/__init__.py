"""What keeps the use of models safe: `detect` finds watermarks in texts."""

from kerasllm.safety.detecting import Detection, calibrate, detect

__all__ = ["Detection", "calibrate", "detect"]
