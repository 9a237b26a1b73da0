"""Calls to MLflow: how long each kind may take, and the one sentence for what goes wrong.

A small call gets 5 s and is tried three times (`tasks.runtime.environment`). What changes the
registry gets a minute, because a slow server has often done what it has not yet answered; a file
gets a minute and a second for each 5 MB, because a proxy or an object store may take it all before
it answers.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    CUSTOMER_UNAUTHORIZED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
    ErrorCode,
)
from mlflow.utils.credentials import get_default_host_creds

from model.errors import AccessDenied, CommerceClipError, ServiceError
from tasks.pages.text import without_credentials
from tasks.runtime.environment import tracking_uri

OUTAGES = {
    ErrorCode.Name(code)
    for code in (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED)
}
# MLflow answers "invalid parameter" for an alias that is not there.
NOT_FOUND = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}
DENIED = ErrorCode.Name(PERMISSION_DENIED)
UNKNOWN_USER = {ErrorCode.Name(UNAUTHENTICATED), ErrorCode.Name(CUSTOMER_UNAUTHORIZED)}

CHANGE_S = 60
FILE_S, FILE_BYTES_A_S = 60, 5_000_000

_TIMEOUT, _RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_lock = threading.Lock()
_wanted: list[tuple[int, int]] = []
_usual: dict[str, str | None] = {}


def file_seconds(size: int) -> int:
    """Time-out of a file of so many bytes, in seconds."""
    return FILE_S + size // FILE_BYTES_A_S


@contextmanager
def longer_calls(timeout_s: int = CHANGE_S, retries: int = 1) -> Iterator[None]:
    """Give MLflow's calls within the block another time-out and number of retries.

    MLflow reads both from the environment at each call, so they hold for all threads; where blocks
    overlap, the longest time-out and the fewest retries.
    """
    ours = (timeout_s, retries)
    with _lock:
        if not _wanted:
            _usual.update({name: os.environ.get(name) for name in (_TIMEOUT, _RETRIES)})
        _wanted.append(ours)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _wanted.remove(ours)
            _apply()


def _apply() -> None:
    chosen = dict(_usual)
    if _wanted:
        chosen[_TIMEOUT] = str(max(timeout_s for timeout_s, _ in _wanted))
        chosen[_RETRIES] = str(min(retries for _, retries in _wanted))
    for name, value in chosen.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def registry_call(what: str, needs: str = "") -> Iterator[None]:
    """Turn what MLflow refuses or does not answer within the block into one sentence.

    ``what`` says what could not be done, ``needs`` which permission on what it takes.

    Raises:
        ServiceError: MLflow does not answer; the one that is retried.
        AccessDenied: the user may not, or MLflow does not know the user.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise call_failure(what, error, needs) from error


def call_failure(
    what: str, error: MlflowException | requests.RequestException, needs: str = ""
) -> CommerceClipError:
    """Return the sentence for what MLflow answered; raise anything else, our bug, as it is."""
    code = error_code(error)
    if code in UNKNOWN_USER:
        return AccessDenied(f"MLflow {what}: {refused_credentials()}")
    if code == DENIED:
        return AccessDenied(
            f"MLflow {what}: {_user()} lacks {needs or 'a permission'}; "
            "ask whoever administers MLflow for it (docs/security.md)"
        )

    if code not in OUTAGES:
        raise error
    reason = without_credentials(str(error).splitlines()[0])[:200]
    return ServiceError(
        f"MLflow registry {what} ({code}: {reason}); check the server and run again"
    )


def error_code(error: MlflowException | requests.RequestException) -> str:
    """Return MLflow's name of an error; requests for files fail with a bare HTTP status."""
    if isinstance(error, MlflowException):
        return str(error.error_code)
    status = 0 if error.response is None else error.response.status_code
    codes = {401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: RESOURCE_DOES_NOT_EXIST}
    return str(ErrorCode.Name(codes.get(status, INTERNAL_ERROR)))


def refused_credentials() -> str:
    """Return the sentence for a user name, password or token that MLflow does not accept."""
    return (
        f"it does not accept the credentials of {_user()} (status 401); check "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )


def _user() -> str:
    """Return who asks, as far as the client knows; a token names nobody."""
    credentials = get_default_host_creds(tracking_uri())
    if credentials.username and credentials.password:
        return f"user '{credentials.username}'"
    return "the bearer of the token" if credentials.token else "a user without a name"
