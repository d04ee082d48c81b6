"""A network namespace whose only way out loses packets, or everything. For root, with `ip` and `nft`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self


class Lossy:
    """Inside, `127.0.0.1` at these ports leads to this machine's own `127.0.0.1`, over a link of which each packet,
    either way, is lost with `percent`. What is to run inside is put behind `within`."""

    def __init__(self, nft: Path, ports: Iterable[int], percent: int):
        number = os.getpid() % 16000
        self._nft, self._name = nft, f"quancheng{number}"
        self._ports = ", ".join(map(str, ports))
        self._outer, self._inner = f"qo{number}", f"qi{number}"
        self._here, self._there = (str(ip_address("198.18.0.0") + number * 4 + own) for own in (1, 2))
        self._percent = percent
        self.within = ("ip", "netns", "exec", self._name)

    def __enter__(self) -> Self:
        self._ip("netns", "add", self._name)
        try:
            self._connect()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._rules(f"table ip {self._name}\ndelete table ip {self._name}\n")
        self._ip("netns", "del", self._name)

    def lose(self, percent: int) -> None:
        lost = "counter drop" if percent == 100 else f"numgen random mod 100 < {percent} counter drop"
        rules = "".join(
            f"flush chain ip lossy {way}\nadd rule ip lossy {way} {face} {self._inner} {lost}\n"
            for way, face in (("coming", "iifname"), ("going", "oifname"))
        )
        self._rules(rules, inside=True)

    @property
    def lost(self) -> int:
        """Packets, since the last change."""
        told = self._run([*self.within, str(self._nft), "list", "table", "ip", "lossy"])
        return sum(int(line.split("packets ")[1].split()[0]) for line in told.splitlines() if "packets " in line)

    def _connect(self) -> None:
        inside = ("-n", self._name)
        self._ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self._name)
        self._ip("addr", "add", f"{self._here}/30", "dev", self._outer)
        self._ip("link", "set", self._outer, "up")
        self._ip(*inside, "addr", "add", f"{self._there}/30", "dev", self._inner)
        self._ip(*inside, "link", "set", self._inner, "up")
        self._ip(*inside, "link", "set", "lo", "up")
        # Otherwise whatever comes over the link for 127.0.0.1 is dropped as a forgery.
        self._run(["tee", f"/proc/sys/net/ipv4/conf/{self._outer}/route_localnet"], "1")
        self._run([*self.within, "tee", f"/proc/sys/net/ipv4/conf/{self._inner}/route_localnet"], "1")
        self._rules(
            f"""
table ip {self._name} {{
    chain arriving {{
        type nat hook prerouting priority -100;
        iifname {self._outer} tcp dport {{ {self._ports} }} dnat to 127.0.0.1
    }}
}}
"""
        )
        self._rules(
            f"""
table ip lossy {{
    chain leaving {{
        type nat hook output priority -100;
        ip daddr 127.0.0.1 tcp dport {{ {self._ports} }} dnat to {self._here}
    }}
    chain left {{ type nat hook postrouting priority 100; oifname {self._inner} masquerade; }}
    chain coming {{ type filter hook prerouting priority -300; }}
    chain going {{ type filter hook postrouting priority 300; }}
}}
""",
            inside=True,
        )
        self.lose(self._percent)

    def _ip(self, *arguments: str) -> None:
        self._run(["ip", *arguments])

    def _rules(self, rules: str, *, inside: bool = False) -> None:
        self._run([*(self.within if inside else ()), str(self._nft), "-f", "-"], rules)

    def _run(self, argv: list[str], told: str = "") -> str:
        done = subprocess.run(argv, input=told, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout
