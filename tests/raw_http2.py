"""The least of HTTP/2 that opens a gRPC stream, byte by byte: for what no library would send."""

from __future__ import annotations

import socket
import ssl
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9


def frame(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def grpc_prefix(length: int, compressed: bool = False) -> bytes:
    """What goes before a message: whether it is compressed, and its length."""
    return struct.pack(">BI", compressed, length)


class RawConnection:
    """A connection on which everything can be sent. context: of TLS."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._came = b""

    def greet(self) -> None:
        """Open HTTP/2."""
        self.socket.sendall(PREFACE + frame(SETTINGS, b""))

    def call(self, path: str) -> None:
        """Open a gRPC stream, the first."""
        fields = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers",
            "content-type": "application/grpc",
        }  # fmt: skip
        block = b"".join(
            b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode()
            for key, value in fields.items()
        )
        self.greet()
        self.socket.sendall(frame(HEADERS, block, flags=4, stream=1))

    def data(self, payload: bytes) -> None:
        self.socket.sendall(frame(DATA, payload, stream=1))

    def refused(self) -> bool:
        """Whether the server has hung up, or ended the stream. Does not wait."""
        self.socket.settimeout(0.01)
        try:
            came = self.socket.recv(1 << 16)
            if not came:
                return True
            self._came += came
        except (TimeoutError, ssl.SSLWantReadError):
            pass
        except OSError:
            return True
        finally:
            self.socket.settimeout(10)
        while len(self._came) >= 9 + (length := int.from_bytes(self._came[:3], "big")):
            kind, flags = self._came[3], self._came[4]
            self._came = self._came[9 + length :]
            if kind in (RESET, GO_AWAY) or (kind == HEADERS and flags & 1):
                return True
        return False

    def drip(self, payload: bytes, every: float, seconds: float) -> float:
        """Send a byte from time to time until refused; return how long it took. Fails after `seconds`."""
        began, at = time.monotonic(), 0
        while not self.refused():
            assert time.monotonic() - began < seconds, "the server still listens"
            try:
                self.socket.sendall(payload[at : at + 1])
            except OSError:
                break
            at += 1
            time.sleep(every)
        return time.monotonic() - began

    def close(self) -> None:
        self.socket.close()
