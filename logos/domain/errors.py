"""The one tree of errors that Logos raises on purpose.

No HTTP status lives here: `gateway.errors` maps each class to a status, and a test fails on an unmapped one.
Expected outcomes of scheduling (rejected, over a limit) are values, not exceptions, until they reach the door.

    LogosError
    ├── BadRequest                  what the client sent cannot be understood
    │   ├── ContextTooLong
    │   ├── BodyTooLarge
    │   ├── UnsupportedMediaType
    │   └── UnknownPolicy
    ├── NotAuthenticated            no key, or not one of ours
    ├── NotPermitted                the key's role does not allow it
    │   └── PrivacyForbids          no endpoint is private enough for the policy
    ├── UnknownModel                also: not permitted for this key (the same words)
    ├── NotFound
    ├── MethodNotAllowed
    ├── Conflict
    ├── InvalidDeclaration          a config or `logos apply` document that does not fit
    │   └── InvalidWorkload         a workload file that does not fit
    ├── LimitReached                requests, tokens or concurrency
    ├── BudgetExhausted
    ├── NoCapacity                  nothing can serve it in time
    │   └── QueueTimeout
    ├── UpstreamFailed              an endpoint broke
    │   ├── UpstreamTimeout
    │   └── UpstreamRefused         it answered with an error of its own, which is passed on
    ├── ClientLeft                  the client closed its connection
    ├── DatabaseUnavailable
    ├── DirectoryStale              the key directory could not be confirmed lately
    ├── EmbeddingUnavailable        choosing by meaning is away; policy and tags decide
    ├── StaleEpoch                  a message from before a restart
    └── EngineFailed                an engine did not do what it was told
"""

from __future__ import annotations


class LogosError(Exception):
    """Something went wrong inside Logos; the log of this request id says what."""

    code: str = "internal_error"
    param: str | None = None
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """`message` defaults to the first line of the class's docstring; it is shown to clients, so no secrets."""
        doc = (type(self).__doc__ or "").strip().splitlines()
        self.message = message if message is not None else (doc[0] if doc else type(self).__name__)
        super().__init__(self.message)
        if code is not None:
            self.code = code
        if param is not None:
            self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross actor calls, so every field survives pickling."""
        return _rebuild, (type(self), self.message, self.code, self.param, self.retry_after_s)


def _rebuild(
    kind: type[LogosError], message: str, code: str, param: str | None, retry_after_s: float | None
) -> LogosError:
    return kind(message, code=code, param=param, retry_after_s=retry_after_s)


class BadRequest(LogosError):
    """The request could not be understood."""

    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The prompt is longer than every permitted model's context."""

    code = "context_length_exceeded"


class BodyTooLarge(BadRequest):
    """The request body is larger than this server accepts."""

    code = "body_too_large"


class UnsupportedMediaType(BadRequest):
    """The content type must be application/json."""

    code = "unsupported_media_type"


class UnknownPolicy(BadRequest):
    """There is no such policy."""

    code = "unknown_policy"
    param = "policy"


class NotAuthenticated(LogosError):
    """No valid API key was given: send one as 'Authorization: Bearer KEY'."""

    code = "invalid_api_key"


class NotPermitted(LogosError):
    """This key may not do that: an administrator's key is needed."""

    code = "not_permitted"


class PrivacyForbids(NotPermitted):
    """No endpoint is private enough for the policy of this request."""

    code = "privacy"
    param = "policy"


class UnknownModel(LogosError):
    """The model does not exist or this key may not use it: GET /v1/models lists the ones it may."""

    code = "model_not_found"
    param = "model"


class NotFound(LogosError):
    """There is nothing here."""

    code = "not_found"


class MethodNotAllowed(LogosError):
    """This method is not allowed here."""

    code = "method_not_allowed"


class Conflict(LogosError):
    """This would contradict what is already there."""

    code = "conflict"


class InvalidDeclaration(LogosError):
    """The declaration does not fit; nothing was changed."""

    code = "invalid_declaration"


class InvalidWorkload(InvalidDeclaration):
    """The workload file does not fit; nothing was sent."""

    code = "invalid_workload"


class LimitReached(LogosError):
    """A limit of this key is reached."""

    code = "rate_limit_exceeded"


class BudgetExhausted(LogosError):
    """The budget of this key is used up."""

    code = "budget_exhausted"


class NoCapacity(LogosError):
    """Nothing can serve this request at the moment."""

    code = "no_capacity"
    retry_after_s = 5.0


class QueueTimeout(NoCapacity):
    """The request waited in the queue for as long as it was allowed to."""

    code = "queue_timeout"


class UpstreamFailed(LogosError):
    """The model's endpoint failed while it answered this request."""

    code = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    """The model's endpoint did not answer in time."""

    code = "upstream_timeout"


class UpstreamRefused(UpstreamFailed):
    """The model's endpoint refused this request."""

    code = "upstream_refused"


class ClientLeft(LogosError):
    """The client closed its connection."""

    code = "client_left"


class DatabaseUnavailable(LogosError):
    """The database is away, so nothing can be changed at the moment; requests to models are still served."""

    code = "database_unavailable"
    retry_after_s = 5.0


class DirectoryStale(LogosError):
    """Keys cannot be confirmed at the moment; try again in a few seconds."""

    code = "directory_stale"
    retry_after_s = 2.0


class EmbeddingUnavailable(LogosError):
    """Choosing by meaning is away at the moment; requests are served, policy and tags decide."""

    code = "classifier_unavailable"
    retry_after_s = 2.0


class StaleEpoch(LogosError):
    """The message is from before a restart of the actor that it speaks of."""

    code = "stale_epoch"


class EngineFailed(LogosError):
    """An engine did not do what it was told."""

    code = "engine_failed"
