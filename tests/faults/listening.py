"""What processes listen on."""

import socket
from collections.abc import Iterable

import psutil


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Address and port of every TCP socket that waits for connections, and of every bound UDP socket."""
    found = set()
    for process in processes:
        try:
            for one in process.net_connections("inet"):
                bound = one.type == socket.SOCK_DGRAM and not one.raddr
                if one.laddr and (one.status == psutil.CONN_LISTEN or bound):
                    found.add((one.laddr.ip, one.laddr.port))
        except psutil.Error:
            continue
    return found


def addresses(lines: Iterable[str]) -> set[str]:
    """The addresses of lines "('127.0.0.1', 4200)" or "127.0.0.1 4200"."""
    return {line.strip("()").replace("'", "").replace(",", " ").split()[0] for line in lines}
