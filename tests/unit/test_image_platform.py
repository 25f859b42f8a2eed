"""Which of several platforms a machine takes."""

from __future__ import annotations

import pytest

from edged.errors import PermanentError
from edged.images.oci import Descriptor, Platform
from edged.images.platforms import choose, parse_platform, rank, runnable

PI4 = Platform("linux", "arm64", "v8")
PI2 = Platform("linux", "arm", "v7")
PI_ZERO = Platform("linux", "arm", "v6")
PC = Platform("linux", "amd64")


def offer(*texts: str) -> tuple[Descriptor, ...]:
    return tuple(Descriptor(f"sha256:{i:064x}", 1, platform=parse_platform(t)) for i, t in enumerate(texts))


@pytest.mark.parametrize(
    ("machine", "offered", "chosen"),
    [
        (PC, ("arm64", "amd64"), 1),
        (PC, ("386", "amd64"), 1),
        (PC, ("arm64", "386"), 1),
        (PI4, ("arm/v7", "arm64", "amd64"), 1),
        (PI4, ("arm/v7", "arm64/v8"), 1),
        (PI4, ("arm/v6", "arm/v7"), 1),
        (PI2, ("arm/v5", "arm/v6", "arm64"), 1),
        (PI2, ("arm",), 0),
        (PI_ZERO, ("arm/v7", "arm/v5"), 1),
    ],
)
def test_the_best_that_runs_is_chosen(machine: Platform, offered: tuple[str, ...], chosen: int) -> None:
    descriptors = offer(*offered)
    assert choose(descriptors, machine, "image a") == descriptors[chosen]


@pytest.mark.parametrize(
    ("machine", "offered"), [(PC, ("arm64",)), (PI_ZERO, ("arm/v7", "arm64")), (PI2, ("arm64/v8",)), (PI4, ("amd64",))]
)
def test_nothing_that_fits_is_an_error_that_lists_what_there_is(machine: Platform, offered: tuple[str, ...]) -> None:
    with pytest.raises(PermanentError) as refused:
        choose(offer(*offered), machine, "image a")
    assert str(machine) in str(refused.value)
    for text in offered:
        assert f"linux/{text}" in str(refused.value)


def test_attestations_are_never_chosen() -> None:
    attestation = Descriptor("sha256:" + "a" * 64, 1, platform=Platform("unknown", "unknown"))
    image = offer("amd64")[0]
    assert choose((attestation, image), PC, "image a") == image
    with pytest.raises(PermanentError):
        choose((attestation,), PC, "image a")


def test_another_operating_system_never_fits() -> None:
    assert rank(Platform("windows", "amd64"), PC) is None


def test_an_unknown_architecture_still_runs_its_own_images() -> None:
    riscv = Platform("linux", "riscv64")
    assert runnable(riscv) == (riscv,)
    assert rank(riscv, riscv) == 0


@pytest.mark.parametrize("text", ["", "linux", "linux//v7", "linux/arm/v7/x"])
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="ARCHITECTURE"):
        parse_platform(text)
