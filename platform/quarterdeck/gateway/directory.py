"""A snapshot arranged for questions: whose key is this, which service is this model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from quarterdeck.gateway.errors import ApiError, key_unknown
from quarterdeck.specs.gateway_snapshot import (
    GatewaySnapshot,
    KeyDigest,
    ServedAlias,
    ServiceRoute,
)

_NAMES_SHOWN = 20
_MOST_SEEN = 4096
_INFERRING = frozenset({"viewer", "operator", "admin"})


@dataclass(frozen=True)
class Directory:
    """Keys by digest and services by (project, name)."""

    version: str
    keys: dict[str, KeyDigest] = field(repr=False)
    services: dict[tuple[str, str], ServiceRoute]
    _seen: dict[bytes | None, KeyDigest] = field(default_factory=dict, repr=False)
    """By whole headers, of keys that are known: a digest for each request would cost more than
    all else about keys. Headers are compared only where their keyed hashes are equal, so that
    this gives nothing away by its timing either."""
    _aliases: dict[str, list[tuple[ServiceRoute, ServedAlias]]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(cls, snapshot: GatewaySnapshot) -> Directory:
        """Arrange a snapshot."""
        aliases: dict[str, list[tuple[ServiceRoute, ServedAlias]]] = {}
        for route in snapshot.services:
            for alias in route.aliases:
                aliases.setdefault(alias.name, []).append((route, alias))
        return cls(
            version=snapshot.version,
            keys={key.sha256: key for key in snapshot.keys},
            services={(route.project, route.name): route for route in snapshot.services},
            _aliases=aliases,
        )

    def key_of(self, authorization: bytes | None) -> KeyDigest:
        """The key of an `Authorization` header; raises ApiError 401 or 403."""
        known = self._seen.get(authorization)
        if known is not None:
            return known
        if authorization is None:
            raise key_unknown("no key: send the header `Authorization: Bearer KEY`")
        scheme, _, secret = authorization.partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not secret:
            raise key_unknown("the Authorization header is not of the form `Bearer KEY`")
        # A lookup by digest gives nothing away by its timing: the digest is not the secret.
        key = self.keys.get(hashlib.sha256(secret).hexdigest())
        if key is None:
            raise key_unknown("the key is unknown, expired or revoked: create another one")
        if key.access not in _INFERRING:
            raise ApiError(
                403,
                f"a key with access {key.access!r} cannot use models: create one with viewer",
                code="access_denied",
                type_="permission_error",
                close=True,
            )
        if len(self._seen) < _MOST_SEEN:
            self._seen[authorization] = key
        return key

    def visible(self, key: KeyDigest) -> dict[str, ServiceRoute]:
        """Services that a key may use, by the model name it uses for them.

        A key of every project sees `PROJECT/NAME` where a name occurs in several of them.
        """
        mine = [route for route in self.services.values() if key.project in (None, route.project)]
        counts: dict[str, int] = {}
        for route in mine:
            counts[route.name] = counts.get(route.name, 0) + 1
        names = {alias.name: route for route in mine for alias in route.aliases}
        names |= {
            route.name if counts[route.name] == 1 else f"{route.project}/{route.name}": route
            for route in mine
        }
        return dict(sorted(names.items()))

    def service_of(
        self,
        key: KeyDigest,
        model: str,
        headers: Mapping[bytes, bytes] | None = None,
        random: Random | None = None,
    ) -> ServiceRoute:
        """The service that a key means by a model name: a service, plain or as `PROJECT/NAME`, or
        an alias. Of several services with the alias first those whose rules the `headers`
        (lower-case names) fulfil, then one by chance after their weights.

        Raises ApiError 404 with the names that exist, 400 for a name in several projects.
        """
        found = self._named(key, model)
        if found is None:
            found = self._by_alias(key, model, headers or {}, random)
        if found is not None:
            return found
        names = list(self.visible(key))
        shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        raise ApiError(
            404,
            f"The model {model[:200]!r} does not exist or you do not have access to it. "
            f"Models you can use: {shown}{more}",
            param="model",
            code="model_not_found",
        )

    def sibling(self, route: ServiceRoute, name: str) -> ServiceRoute | None:
        """Another service of the same project."""
        return self.services.get((route.project, name))

    def _by_alias(
        self, key: KeyDigest, model: str, headers: Mapping[bytes, bytes], random: Random | None
    ) -> ServiceRoute | None:
        """A key of every project sees all aliases: its services share one name space then."""
        found = [
            (alias, route)
            for route, alias in self._aliases.get(model, ())
            if key.project in (None, route.project)
        ]
        ruled = [each for each in found if each[0].headers and _fulfils(headers, each[0].headers)]
        free = [each for each in found if not each[0].headers and each[0].weight > 0]
        chosen = ruled or free
        if not chosen:
            return None
        weights = [max(alias.weight, 1) if ruled else alias.weight for alias, _ in chosen]
        return (random or Random()).choices([route for _, route in chosen], weights)[0]

    def _named(self, key: KeyDigest, model: str) -> ServiceRoute | None:
        project, slash, name = model.rpartition("/")
        if slash:
            found = self.services.get((project, name))
            if found is not None and key.project in (None, project):
                return found
        elif key.project is not None:
            found = self.services.get((key.project, model))
            if found is not None:
                return found
        else:
            named = [route for route in self.services.values() if route.name == model]
            if len(named) == 1:
                return named[0]
            if named:
                forms = ", ".join(sorted(f"{route.project}/{model}" for route in named))
                raise ApiError(
                    400,
                    f"model {model!r} is served in several projects: write one of {forms}",
                    param="model",
                    code="model_ambiguous",
                )
        return None


def _fulfils(headers: Mapping[bytes, bytes], rules: Mapping[str, str]) -> bool:
    return all(headers.get(name.encode()) == value.encode() for name, value in rules.items())
