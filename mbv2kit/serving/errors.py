"""Refusals: requests that get no prediction, each with its status and one sentence."""

from mbv2kit.errors import UserError

# Seconds after which a client may try again what the server had no room for.
RETRY_AFTER = 1


class RefusedError(UserError):
    """A request that cannot be answered.

    Args:
        status: Status of HTTP.
        message: The sentence of the answer, ``{"error": message}``.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoRoomError(RefusedError):
    """The server has as much to do as it accepts."""

    def __init__(self, message: str) -> None:
        super().__init__(503, f"{message}; try again in a moment.")
