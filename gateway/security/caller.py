"""Who a request comes from, as its API key proves it."""

from enum import StrEnum

import msgspec


class Scope(StrEnum):
    """What a key is good for. `ADMIN` includes the others: it may make keys that have them."""

    INFERENCE = "inference"
    ADMIN = "admin"
    METRICS = "metrics"


class Caller(msgspec.Struct, frozen=True):
    """`models` empty means all; `priority` is the class of its requests, empty for none in particular."""

    key_id: str = ""
    name: str = ""
    scopes: tuple[Scope, ...] = (Scope.INFERENCE,)
    models: tuple[str, ...] = ()
    priority: str = ""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_use(self, *names_of_model: str) -> bool:
        """Whether one of the names that a model goes by is on the list."""
        return not self.models or any(name in self.models for name in names_of_model)
