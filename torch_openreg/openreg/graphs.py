"""Graph capture."""


def is_current_stream_capturing() -> bool:
    """Return whether the current stream is being captured, which no stream is yet."""
    return False
