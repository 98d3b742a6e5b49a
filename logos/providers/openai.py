"""The OpenAI-compatible wire format: where a request goes and with which headers.

`base_url` is what precedes `/chat/completions`, as in the OpenAI SDK: `https://api.example.com/v1`. Nothing is guessed:
a provider without `/v1` in its paths is declared without it. Engines are told by their address (`http://host:port`),
and vLLM serves the public API below `/v1` there. The body is not touched here (the gateway has parsed it already), so
the upstream's model name is the gateway's to set.

Azure's accounts are declared by the address of their resource, `https://NAME.openai.azure.com`, with or without
`/openai`: what follows is `/openai/v1`, as with OpenAI, or the deployment's own path where the address names an
api-version. Every other address of kind azure (one that ends in `/v1`, a gateway in front) is taken as it is.
"""

from __future__ import annotations

from urllib.parse import quote

from multidict import CIMultiDict, istr
from yarl import URL

from logos.domain.directory import ProviderAccess
from logos.domain.errors import UpstreamFailed
from logos.providers.transport import Target

TARGETS_MAX = 4096  # a bound, not a tuning: far more than endpoints times routes

_COMMON_HEADERS = {
    istr("Content-Type"): "application/json",
    istr("Accept"): "application/json, text/event-stream",
    # Usage is read on the way past, so nothing may be compressed.
    istr("Accept-Encoding"): "identity",
    istr("User-Agent"): "logos",
}


_Known = tuple[ProviderAccess | str, str, str | None]


class OpenAITargets:
    """Targets by provider or engine address and path, each built once. `path` is what follows `/v1`."""

    def __init__(self) -> None:
        self._targets: dict[_Known, Target] = {}

    def remote(self, access: ProviderAccess, path: str, deployment: str | None = None) -> Target:
        """`deployment`: of an account of Azure. Raises UpstreamFailed if the declared URL or key cannot be sent."""
        key = access, path, deployment
        target = self._targets.get(key)
        if target is None:
            target = self._keep(key, remote_target(access, path, deployment))
        return target

    def engine(self, address: str, path: str) -> Target:
        key = address, path, None
        target = self._targets.get(key)
        if target is None:
            target = self._keep(key, engine_target(address, path))
        return target

    def _keep(self, key: _Known, target: Target) -> Target:
        if len(self._targets) >= TARGETS_MAX:
            self._targets.clear()
        self._targets[key] = target
        return target


def remote_target(access: ProviderAccess, path: str, deployment: str | None = None) -> Target:
    """A provider's target. An empty key or header name means: no authentication."""
    headers = dict(_COMMON_HEADERS)
    secrets: tuple[str, ...] = ()
    if access.api_key and access.auth_header:
        value = access.auth_format.replace("{key}", access.api_key)
        if not _is_header_text(value) or not _is_header_text(access.auth_header):
            raise UpstreamFailed("The endpoint's credentials cannot be sent as a header.", code="upstream_misdeclared")
        headers[istr(access.auth_header)] = value
        secrets = (access.api_key,)
    return _target(access.base_url, path, headers, secrets, deployment)


def engine_target(address: str, path: str) -> Target:
    """An engine's target: `/v1` is added unless the address already ends in it."""
    base = address.rstrip("/")
    return _target(base if base.endswith("/v1") else f"{base}/v1", path, dict(_COMMON_HEADERS), ())


def _target(
    base_url: str, path: str, headers: dict[istr, str], secrets: tuple[str, ...], deployment: str | None = None
) -> Target:
    """A query string of `base_url` stays behind the path."""
    try:
        base = URL(base_url)
        before = base.raw_path.rstrip("/") if deployment is None else _azure_path(base, deployment)
        url = base.with_path(before + path, encoded=True, keep_query=True)
    except ValueError:
        raise _misdeclared() from None
    if url.scheme not in {"http", "https"} or not url.raw_host:
        raise _misdeclared()
    return Target(url, CIMultiDict(headers), (*secrets, *_secrets_of(url)))


def _azure_path(base: URL, deployment: str) -> str:
    path = base.raw_path.rstrip("/")
    if path not in {"", "/openai"}:
        return path
    return f"/openai/deployments/{quote(deployment, safe='')}" if "api-version" in base.query else "/openai/v1"


# Of a query string: parameters that are no secrets, and the shortest value that is one and no part of other words.
_OPEN_PARAMETERS = frozenset({"api-version"})
_SECRET_CHARACTERS_MIN = 6


def _secrets_of(url: URL) -> tuple[str, ...]:
    """What of a URL nobody may see, longest first. A host without a dot is a word that may mean something else."""
    host = url.raw_host or ""
    found = {value for name, value in url.query.items() if name not in _OPEN_PARAMETERS} | {url.password or ""}
    found = {each for each in found if len(each) >= _SECRET_CHARACTERS_MIN} | {url.raw_authority}
    if "." in host or ":" in host:
        found.add(host)
    return tuple(sorted(found, key=lambda each: (-len(each), each)))


def _misdeclared() -> UpstreamFailed:
    return UpstreamFailed("The endpoint's URL is not one that can be called.", code="upstream_misdeclared")


def _is_header_text(text: str) -> bool:
    return text.isascii() and text.isprintable()
