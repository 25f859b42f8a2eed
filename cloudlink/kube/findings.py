"""How validators say what they find: Causes in Kubernetes' own phrases (field.Error)."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping

from cloudlink.kube import names
from cloudlink.kube.errors import MAX_CAUSES, Cause, Reason

Check = Callable[[str], str]


class Findings:
    """Collects causes; bounded, because a document may be wrong in as many places as it has."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def _add(self, path: str, reason: Reason, message: str) -> None:
        if len(self.causes) <= MAX_CAUSES:
            self.causes.append(Cause(path, reason, message))

    def invalid(self, path: str, value: object, why: str) -> None:
        self._add(path, "FieldValueInvalid", f"Invalid value: {shown(value)}: {why}")

    def hidden(self, path: str, why: str) -> None:
        """Like `invalid`, where the value must not be shown."""
        self._add(path, "FieldValueInvalid", f"Invalid value: {why}")

    def required(self, path: str, why: str = "") -> None:
        self._add(path, "FieldValueRequired", f"Required value: {why}" if why else "Required value")

    def unsupported(self, path: str, value: object, options: Iterable[str]) -> None:
        listed = ", ".join(f'"{o}"' for o in options)
        self._add(path, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {listed}")

    def refused(self, path: str, why: str) -> None:
        """Kubernetes would take it; this version doesn't."""
        self._add(path, "FieldValueNotSupported", f"not supported: {why}")

    def duplicate(self, path: str, value: object) -> None:
        self._add(path, "FieldValueDuplicate", f"Duplicate value: {shown(value)}")

    def forbidden(self, path: str, why: str) -> None:
        self._add(path, "FieldValueForbidden", f"Forbidden: {why}")

    def too_long(self, path: str, limit: int, unit: str = "bytes") -> None:
        self._add(path, "FieldValueTooLong", f"Too long: may not be more than {limit} {unit}")

    def too_many(self, path: str, count: int, limit: int) -> None:
        self._add(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")

    def of_type(self, path: str, value: object, why: str) -> None:
        self._add(path, "FieldValueTypeInvalid", f"Invalid value: {shown(value)}: {why}")

    def unknown(self, path: str) -> None:
        self._add(path, "FieldValueInvalid", "unknown field")

    def not_found(self, path: str, value: object, why: str = "") -> None:
        self._add(path, "FieldValueNotFound", f"Not found: {shown(value)}" + (f": {why}" if why else ""))

    # ------------------------------------------------------------ common shapes

    def text(self, path: str, value: str, check: Check) -> None:
        """A required text of a certain syntax."""
        if not value:
            self.required(path)
        elif why := check(value):
            self.invalid(path, value, why)

    def at_least(self, path: str, value: int, least: int) -> None:
        if value < least:
            self.invalid(path, value, f"must be greater than or equal to {least}")
        elif value > 2**31 - 1:
            self.invalid(path, value, "must fit into 32 bits")

    def port(self, path: str, number: int) -> None:
        if why := names.port_number(number):
            self.invalid(path, number, why)

    def ip(self, path: str, address: str, v6: bool = False) -> None:
        """A required IP address; IPv6 only where we have a use for it."""
        if not address:
            self.required(path)
            return
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            self.invalid(path, address, "must be a valid IP address, (e.g. 10.9.8.7)")
            return
        if parsed.version == 6 and (not v6 or "%" in address):
            self.invalid(path, address, "must be an IPv4 address, (e.g. 10.9.8.7)")

    def unique(self, path: str, value: object, seen: set[object]) -> None:
        if value in seen:
            self.duplicate(path, value[0] if isinstance(value, tuple) else value)
        seen.add(value)

    def labels(self, path: str, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            if why := names.label_key(key):
                self.invalid(path, key, why)
            if why := names.label_value(value):
                self.invalid(path, value, why)

    def base64(self, path: str, encoded: Mapping[str, str]) -> int:
        """Checks each value of a mapping without ever showing one. Returns the decoded bytes' number."""
        size = 0
        for key, value in encoded.items():
            try:
                size += len(base64.b64decode("".join(value.split()), validate=True))
            except (binascii.Error, ValueError):
                self.hidden(f"{path}[{key}]", "must be base64 (`stringData` takes plain text)")
        return size


def shown(value: object) -> str:
    """A value for a message: as JSON, short, printable."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 128 else f"{text[:128]}..."
