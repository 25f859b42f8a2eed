"""The syntax of names, labels and keys, as apimachinery's validation package defines it.

Each check returns "" when the text is fine and otherwise a sentence fragment that says what it must be.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+", re.ASCII)
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*", re.ASCII)
_DEVICE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.:+=@~#%\\/]*", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", re.ASCII)
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)


def dns_label(text: str) -> str:
    """RFC 1123 label: containers, volumes, namespaces, service ports."""
    if len(text) > 63:
        return "must be no more than 63 characters"
    if _LABEL.fullmatch(text):
        return ""
    return (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character (e.g. 'my-name' or '123-abc')"
    )


def dns_label_1035(text: str) -> str:
    """RFC 1035 label: Services, whose names become DNS names."""
    if len(text) > 63:
        return "must be no more than 63 characters"
    if _LABEL_1035.fullmatch(text):
        return ""
    return (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character (e.g. 'my-name' or 'abc-123')"
    )


def dns_subdomain(text: str) -> str:
    """RFC 1123 subdomain: the names of most objects."""
    if len(text) > 253:
        return "must be no more than 253 characters"
    if _SUBDOMAIN.fullmatch(text):
        return ""
    return (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character (e.g. 'example.com')"
    )


def cron_job(text: str) -> str:
    """A CronJob's name: its Jobs add eleven characters, and a Job's name becomes a label."""
    return "must be no more than 52 characters" if len(text) > 52 else dns_subdomain(text)


def wildcard_subdomain(text: str) -> str:
    """*.example.com: of an Ingress."""
    if text.startswith("*.") and not dns_subdomain(text[2:]):
        return ""
    return (
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
        "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com')"
    )


def qualified_path(text: str) -> str:
    """A domain and a path, as controllers are named: k8s.io/ingress-nginx."""
    domain, slash, path = text.partition("/")
    if slash and path and not dns_subdomain(domain) and _PATH.fullmatch(path):
        return ""
    return 'must be a domain-prefixed path (such as "acme.io/foo")'


def dns_subdomain_with_underscore(text: str) -> str:
    """As resolvers take it: search domains."""
    return dns_subdomain(text.replace("_", "a")) and (
        "must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an "
        "alphanumeric character (e.g. 'example.com')"
    )


def label_key(text: str) -> str:
    """Qualified name: an optional DNS prefix and a name, as for keys of labels, annotations and taints."""
    prefix, slash, name = text.rpartition("/")
    if slash and dns_subdomain(prefix):
        return f"prefix part {dns_subdomain(prefix)}"
    if len(name) > 63:
        return "name part must be no more than 63 characters"
    if _QUALIFIED.fullmatch(name):
        return ""
    return (
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
        "alphanumeric character (e.g. 'MyName' or 'my.name'), with an optional DNS subdomain prefix and '/' "
        "(e.g. 'example.com/MyName')"
    )


def label_value(text: str) -> str:
    if len(text) > 63:
        return "must be no more than 63 characters"
    if not text or _QUALIFIED.fullmatch(text):
        return ""
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
        "start and end with an alphanumeric character (e.g. 'MyValue' or 'my_value')"
    )


def device_name(text: str) -> str:
    """A board's device by its stable name, such as i2c-1 or serial/by-id/usb-FTDI_A50285BI-if00; see docs/devices.md.

    Stands after `edged.dev/` in resources, too: other than Kubernetes' resource names it may have several slashes.
    """
    if len(text) > 253:
        return "must be no more than 253 characters"
    if _DEVICE.fullmatch(text) and ".." not in text.split("/"):
        return ""
    return "a device's name is one that the node tells (e.g. 'i2c-1' or 'usb/1a86:7523'), without spaces and commas"


def config_key(text: str) -> str:
    """Keys of ConfigMaps and Secrets; they become file names."""
    if len(text) > 253:
        return "must be no more than 253 characters"
    if text == "." or text.startswith(".."):
        return "must not be '.' and must not start with '..'"
    if _CONFIG_KEY.fullmatch(text):
        return ""
    return "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name')"


def env_name(text: str) -> str:
    if _ENV_NAME.fullmatch(text):
        return ""
    return (
        "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', "
        "and must not start with a digit (e.g. 'MY_ENV.VAR-1')"
    )


def port_name(text: str) -> str:
    """IANA_SVC_NAME (RFC 6335): names of container ports."""
    if len(text) > 15:
        return "must be no more than 15 characters"
    if _PORT_NAME.fullmatch(text) and "--" not in text and re.search("[a-z]", text):
        return ""
    return (
        "must contain only lower case letters, digits and '-', at least one letter, no '--', "
        "and start and end with a letter or digit"
    )


def port_number(number: int) -> str:
    return "" if 1 <= number <= 65535 else "must be between 1 and 65535, inclusive"
