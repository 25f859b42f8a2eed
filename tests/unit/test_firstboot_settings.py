"""edged.toml as people write it: what is understood, and what is said where it isn't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.node.firstboot import files
from images.node.firstboot.plan import JoinFile
from images.node.firstboot.settings import KEYS, Problem, Settings, read

TOKEN = "edged1.abcdefghijklmnopqrstuvwxyz0123456789"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUUa8DCuKYwGVJpDH2IMPtvWqkSLDqIHhJEVfp3cxzY me@laptop"
WHOLE = f"""
token = "{TOKEN}"
hostname = "greenhouse-3"
ssh_authorized_keys = ["{KEY}"]
timezone = "Europe/Berlin"
watchdog = "required"

[wifi]
country = "de"
ssid = "IEEE"
password = "password"
hidden = true

[network]
address = ["192.168.1.50/24", "2001:db8::50/64"]
gateway = "192.168.1.1"

[node]
labels = {{ place = "roof", "example.com/sensor" = "bme280" }}
"""


def good(text: str | bytes) -> Settings:
    found = read(text.encode() if isinstance(text, str) else text)
    assert isinstance(found, Settings), [str(p) for p in found]
    return found


def wrong(text: str | bytes) -> list[str]:
    found = read(text.encode() if isinstance(text, str) else text)
    assert not isinstance(found, Settings), found
    return [str(problem) for problem in found]


def test_a_whole_file_is_read_with_everything_in_it() -> None:
    settings = good(WHOLE)
    assert (settings.token, settings.hostname, settings.timezone) == (TOKEN, "greenhouse-3", "Europe/Berlin")
    assert settings.ssh_authorized_keys == (KEY,)
    assert settings.watchdog == "required"
    assert settings.node == {"labels": {"place": "roof", "example.com/sensor": "bme280"}}
    assert settings.network is not None
    assert settings.network.addresses == ("192.168.1.50/24", "2001:db8::50/64")
    assert settings.network.dns == ("192.168.1.1",)  # a router's, where none is named
    assert settings.secrets == (TOKEN, "password")


def test_a_password_becomes_the_key_that_the_standard_says() -> None:
    wifi = good(WHOLE).wifi
    assert wifi is not None  # IEEE 802.11i, annex H.4.2, first test vector
    assert wifi.key == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert (wifi.country, wifi.hidden) == ("DE", True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_editors_encoding_and_line_ends_are_taken(encoding: str, newline: str) -> None:
    assert good(WHOLE.lstrip().replace("\n", newline).encode(encoding)) == good(WHOLE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('hostname = “roof”', "line 1: there is a typographic quotation mark; write a straight one"),
        ('# a\nhostname\u00a0= "roof"', "line 2: there is a space that isn't one"),
        ("hostname = roof", 'line 1: hostname: text stands in straight quotes: hostname = "..."'),
        ('hostname: "roof"', 'line 1: a field and its value are joined by "=", not by ":"'),
        ('[wifi]\npassword = "a\\qb"', "line 2: this can't be read"),
        ('hostname = "roof', "this can't be read"),
        ('hostnam = "roof"', "line 1: hostnam: there is no such field; did you mean hostname?"),
        ('ssid = "x"', "line 1: ssid: there is no such field; did you mean ssid below [wifi]?"),
        ('hostname = "Roof 1"', 'line 1: hostname: "Roof 1" is no host name: a-z, 0-9 and "-" only, 63'),
        ("hostname = 3", "line 1: hostname: must be text in quotes, not a number"),
        ("# token\n\n", 'there is nothing in it: remove the "#"'),
        ("", "there is nothing in it"),
        ('token = "abc"', "line 1: token: is no join token"),
        ('ssh_authorized_keys = ["ssh-ed25519 AAAA"]', "line 1: ssh_authorized_keys: key 1 (ssh-ed25519) is damaged"),
        ('ssh_authorized_keys = ["-----BEGIN OPENSSH PRIVATE KEY-----"]', "this is a PRIVATE key"),
        ('timezone = "../../etc/shadow"', "is no time zone"),
        ('watchdog = "on"', '"on" is none of automatic, required, off'),
        ('wifi = "x"', "line 1: wifi: must be a table"),
        ('[wifi]\nssid = "x"\npassword = "12345678"', "line 1: wifi: country is missing"),
        ('[wifi]\nssid = "x"\ncountry = "DE"', "needs password or psk; or open = true"),
        ('[wifi]\nssid = "x"\ncountry = "DE"\npassword = "short"', "line 4: wifi.password: must have 8 to 63"),
        ('[wifi]\nssid = "x"\ncountry = "DE"\nopen = true\npassword = "12345678"', "password and open: write one"),
        ('[wifi]\nssid = "x"\ncountry = "Germany"\nopen = true', "line 3: wifi.country:"),
        ('[network]\naddress = "192.168.1.5"', "line 2: network.address: \"192.168.1.5\" has no prefix length"),
        ('[network]\naddress = "192.168.1.5/24"\ngateway = "10.0.0.1"', "line 3: network.gateway: 10.0.0.1 is not in"),
        ('[network]\ngateway = "10.0.0.1"', "address is missing"),
        ('[node]\nstate_dir = "/x"', "line 2: node.state_dir: is the image's and the hub's to say"),
        ("[node]\nbuilt = 2026-01-01", "line 2: node.built: must be text"),
        (b"\xef\xbb\xbfhostname = \"caf\xe9\"", "line 1: a character that isn't UTF-8"),
        (b"{\\rtf1 token", "this is a formatted document (RTF); save it as plain text"),
        (b"PK\x03\x04\x14", "word processor"),
        (b"#" * 70000, "this can't be it"),
        (b'hostname = "a"\n' + bytes(600), "the file is damaged (it has NUL bytes)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_and_what_to_write(text: str | bytes, said: str) -> None:
    assert said in "\n".join(wrong(text))


def test_all_mistakes_of_a_file_are_said_at_once_in_its_order() -> None:
    said = wrong('hostname = "A B"\n[wifi]\nssid = ""\ncountry = "DE"\nopen = true\n[node]\nname = "X"\n')
    assert [line.split(": ")[:2] for line in said] == [
        ["line 1", "hostname"],
        ["line 3", "wifi.ssid"],
        ["line 7", "node.name"],
    ]


def test_a_mistake_beside_a_password_does_not_repeat_the_password() -> None:
    for text in ("[wifi]\npassword = hunter2secret", '[wifi]\npassword = "hunter2secret', "password: hunter2secret"):
        assert "hunter2" not in "".join(wrong(text))
    assert "hunter2" not in repr(JoinFile("edged.toml", b"hunter2"))
    settings = good('[wifi]\nssid = "x"\ncountry = "DE"\npassword = "hunter2secret"')
    assert "hunter2" not in repr(settings)


def test_a_wifi_file_has_nothing_that_a_network_name_could_break() -> None:
    wifi = good('[wifi]\nssid = "a\\"}\\npsk=x"\ncountry = "DE"\nopen = true').wifi
    assert wifi is not None
    text = files.wpa_supplicant(wifi)
    assert f"ssid={b'a'.hex()}" in text
    assert '"' not in text.split("network=")[1]
    assert "key_mgmt=NONE" in text


@given(st.binary(max_size=300))
def test_no_bytes_at_all_make_it_crash(raw: bytes) -> None:
    found = read(raw)
    assert isinstance(found, Settings) or all(isinstance(p, Problem) and p.what for p in found)


VALUES = st.recursive(
    st.text(max_size=6) | st.booleans() | st.integers() | st.floats(), lambda v: st.lists(v, max_size=3), max_leaves=4
)


@given(st.sampled_from(sorted(KEYS)), st.data())
def test_no_value_in_any_field_makes_it_crash(table: str, data: st.DataObject) -> None:
    from cloudlink.cli.join import toml

    part = {key: data.draw(VALUES) for key in data.draw(st.sets(st.sampled_from(sorted(KEYS[table]))))}
    try:
        text = toml({table: part} if table else part)
    except UnicodeEncodeError:
        return
    found = read(text.encode(errors="replace"))
    assert isinstance(found, Settings) or found
