"""What a storage's driver raises: whether it passes, or is final.

Drivers raise their libraries' own exceptions as well as `OSError`. They are told apart by name and
by HTTP status, so that no driver has to be there.
"""

from __future__ import annotations

import errno
from http import HTTPStatus

from obliviate.disk import paths
from obliviate.errors import REBUILD, RunDamaged

_PASSING_NUMBERS = {  # beside those of any disk, such as EBUSY: S3's "slow down"
    errno.EREMOTEIO,  # S3's internal error
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
}
_PASSING_STATUSES = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_PASSING_NAMES = {
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.parsers.ResponseParserError",  # an answer that was cut, or came from a proxy
    "aiohttp.client_exceptions.ClientError",
    "urllib3.exceptions.HTTPError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
}


def is_passing(error: Exception) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUSES
    if paths.is_passing(error) or (isinstance(error, OSError) and error.errno in _PASSING_NUMBERS):
        return True
    return any(
        f"{kind.__module__}.{kind.__qualname__}" in _PASSING_NAMES for kind in type(error).__mro__
    )


def is_of_storage(error: Exception) -> bool:
    """Whether a driver says so of its storage; anything else is a fault in a program."""
    is_foreign = type(error).__module__ != "builtins"
    return is_foreign or isinstance(error, (OSError, NotImplementedError))


def lost(key: str, name: str, cause: str, *, is_missing: bool) -> RunDamaged:
    """The error of an object that cannot be had from a storage, and may be made again."""
    return RunDamaged(
        f"object {key} {'is missing' if is_missing else 'cannot be read'} from {name} ({cause})",
        hint=REBUILD,
    )


def reason(error: Exception) -> str:
    """What happened, in the storage's own words."""
    # what s3fs translates has lost the name of the operation that was refused
    cause = error.__cause__ if _response(error.__cause__) is not None else error
    return str(cause).strip() or type(error).__name__


def _status(error: Exception) -> int | None:
    response = _response(error.__cause__) or _response(error)
    if response is not None:
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None


def _response(error: BaseException | None) -> dict[str, dict[str, object]] | None:
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else None
