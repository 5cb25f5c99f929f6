"""A client's JSON Schema in the words that llguidance knows. Does not import mlx.

llguidance refuses a schema with anything in it that it does not know, which is right where answers would be wrong
without. The schemas that agents make of their tools' types hold some words that can be said otherwise or left out:

- a `format` that it does not know is an annotation (JSON Schema 2020-12, Validation, 7.2.1), a `$schema` too;
- `propertyNames` that lists names or gives one pattern is said with `properties` or `patternProperties`.
"""

from typing import Any

ENFORCED_FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
KNOWN_DIALECTS = frozenset(
    {f"http://json-schema.org/draft-0{number}/schema" for number in (4, 6, 7)}
    | {f"https://json-schema.org/draft/{date}/schema" for date in ("2019-09", "2020-12")}
)
WITH_A_SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
WITH_A_LIST_OF_SCHEMAS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
WITH_NAMED_SCHEMAS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
ANNOTATIONS = frozenset({"$comment", "$schema", "default", "deprecated", "description", "examples", "title"})


def enforceable(schema: Any) -> Any:
    """The same schema, as far as it can be said; the rest stays, for llguidance to refuse by name.

    Raises RecursionError for one that is nested too deeply.
    """
    if not isinstance(schema, dict):
        return schema
    said: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in WITH_NAMED_SCHEMAS and isinstance(value, dict):
            said[keyword] = {name: enforceable(each) for name, each in value.items()}
        elif keyword in WITH_A_LIST_OF_SCHEMAS and isinstance(value, list):
            said[keyword] = [enforceable(each) for each in value]
        elif keyword in WITH_A_SCHEMA:
            said[keyword] = enforceable(value)
        elif not _is_annotation(keyword, value):
            said[keyword] = value
    return _without_property_names(said) if "propertyNames" in said else said


def has_patterns(schema: Any) -> bool:
    """Whether a string in it, or a property's name, must match a regular expression."""
    match schema:
        case dict():
            return (
                isinstance(schema.get("pattern"), str)
                or bool(schema.get("patternProperties"))
                or any(has_patterns(each) for each in schema.values())
            )
        case list():
            return any(has_patterns(each) for each in schema)
    return False


def _is_annotation(keyword: str, value: Any) -> bool:
    """One that llguidance stumbles over."""
    if keyword == "format":
        return isinstance(value, str) and value not in ENFORCED_FORMATS
    return keyword == "$schema" and isinstance(value, str) and value.rstrip("#") not in KNOWN_DIALECTS


def _without_property_names(schema: dict[str, Any]) -> dict[str, Any]:
    """`propertyNames` in other words; as it is where there are none for it."""
    rest = {keyword: value for keyword, value in schema.items() if keyword != "propertyNames"}
    properties, further = rest.get("properties", {}), rest.get("additionalProperties", True)
    limits = _limits_of_names(schema["propertyNames"])
    if limits == {}:
        return rest
    if limits is None or len(limits) > 1 or "patternProperties" in rest or not isinstance(properties, dict):
        return schema
    match limits:
        case {"enum": [*allowed]}:
            listed = dict.fromkeys((name for name in allowed if isinstance(name, str)), further)
            known = {name: value for name, value in properties.items() if name in listed}
            return rest | {"properties": listed | known, "additionalProperties": False}
        case {"pattern": str(pattern)} if not properties:
            return rest | {"patternProperties": {pattern: further}, "additionalProperties": False}
    return schema


def _limits_of_names(names: Any) -> dict[str, Any] | None:
    """The keywords that rule out a name; None if no string is one."""
    if names is True:
        return {}
    if not isinstance(names, dict):
        return None
    limits = {keyword: value for keyword, value in names.items() if keyword not in ANNOTATIONS}
    kind = limits.pop("type", "string")
    if kind != "string" and not (isinstance(kind, list) and "string" in kind):
        return None
    if "const" in limits and "enum" not in limits:
        limits["enum"] = [limits.pop("const")]
    return limits
