"""The port at which ranks meet is free on all addresses, and nobody else's of the platform."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from quarterdeck_workers.supervisor.ports import (
    RANGE,
    HeldPorts,
    candidates,
    ephemeral_ports,
)


def _two_free() -> list[int]:
    held = HeldPorts(["a", "b"])
    held.release()
    return list(held.by_name.values())


def test_a_port_that_somebody_has_on_another_address_is_none() -> None:
    taken, free = _two_free()
    with socket.socket() as other:
        other.bind(("127.0.0.41", taken))
        other.listen()
        held = HeldPorts(["main"], [taken, free])
        assert held.by_name == {"main": free}
        held.release()


def test_gangs_of_one_host_never_get_the_same_port() -> None:
    one, two = _two_free()
    first = HeldPorts(["main"], [one, two])
    second = HeldPorts(["main"], [one, two])
    assert (first.by_name, second.by_name) == ({"main": one}, {"main": two})
    with pytest.raises(OSError, match="no port is free"):
        HeldPorts(["main"], [one, two])
    first.release()
    third = HeldPorts(["main"], [one, two])
    assert third.by_name == {"main": one}
    for held in (second, third):
        held.release()


def test_who_finds_no_second_port_keeps_no_first() -> None:
    (one, _) = _two_free()
    with pytest.raises(OSError, match="no port is free"):
        HeldPorts(["actor", "critic"], [one])
    HeldPorts(["main"], [one]).release()


def test_a_held_port_may_be_opened_on_all_addresses_without_further_ado() -> None:
    held = HeldPorts(["main"])
    with ExitStack() as stack:
        for address in ("127.0.0.41", "127.0.0.42"):
            program = stack.enter_context(socket.socket())
            program.bind((address, held.by_name["main"]))
            program.listen()
    held.release()


def test_ports_come_from_where_the_system_gives_out_none(tmp_path: Path) -> None:
    assert candidates((32_768, 60_999)) == list(RANGE)
    assert candidates((21_000, 65_535)) == list(range(20_000, 21_000))
    assert set(candidates((15_000, 65_535))) == set(range(1_025, 15_000))
    assert candidates((1_024, 65_535)) == list(RANGE)
    file = tmp_path / "range"
    assert ephemeral_ports(file) == (32_768, 60_999)
    file.write_text("15000\t61000\n")
    assert ephemeral_ports(file) == (15_000, 61_000)
