"""No network in a notebook that is tested: Python imports this file by itself, in kernels and in what they start.

guards.py puts this folder on PYTHONPATH. A connection or a look-up that leaves the machine fails at once and says why.
Loopback works, and so do a kernel's own sockets.
"""

import socket


def is_here(host: object) -> bool:
    """Whether a host is this machine: a loopback address, its name, or none."""
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127.")


def refusing(call, what, where):
    """A function of sockets that refuses hosts elsewhere. where: from its arguments to the host it goes to."""
    def checked(*arguments, **options):
        host = where(*arguments, **options)
        if not is_here(host):
            raise OSError(f"notebooks have no network: {what} {host}")
        return call(*arguments, **options)

    return checked


def of_address(connection, *arguments):
    """The host that a socket goes to; None for sockets that are files. An address is the last argument."""
    inet = connection.family in (socket.AF_INET, socket.AF_INET6)
    return arguments[-1][0] if inet and isinstance(arguments[-1], tuple) else None


def of_message(connection, buffers, ancillary=(), flags=0, address=None):
    """The host that a message is sent to; None where the socket is connected."""
    return of_address(connection, address)


for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refusing(getattr(socket.socket, name), "connect to", of_address))
socket.socket.sendmsg = refusing(socket.socket.sendmsg, "connect to", of_message)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, refusing(getattr(socket, name), "look up", lambda host=None, *rest, **options: host))
