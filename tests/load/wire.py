"""A PostgreSQL client that is just enough for load figures: SCRAM login, TLS, simple queries, and raw access to the
socket. Standard library only; each SCRAM key is derived once, so that 5,000 logins cost the client little."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import ssl
import struct

from lab import DATABASE, PASSWORD, USER


class ServerError(Exception):
    """An ErrorResponse."""

    def __init__(self, body):
        self.fields = {field[:1].decode(): field[1:].decode() for field in body.split(b"\0") if field}
        super().__init__(f"{self.fields.get('C')}: {self.fields.get('M')}")

    @property
    def code(self):
        return self.fields.get("C")


def message(tag, body):
    return tag + struct.pack("!I", len(body) + 4) + body


def query_message(sql):
    return message(b"Q", sql.encode() + b"\0")


@functools.cache
def salted(salt, iterations):
    return hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, iterations)


def hmac256(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


@functools.cache
def unverified():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """A logged-in connection."""

    def __init__(self, port, tls=False, database=DATABASE):
        self.buffer = bytearray()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket.sendall(struct.pack("!II", 8, 80877103))
            if self.socket.recv(1) != b"S":
                raise RuntimeError("the server has no TLS")
            self.socket = unverified().wrap_socket(self.socket)
        startup = struct.pack("!I", 196608) + f"user\0{USER}\0database\0{database}\0\0".encode()
        self.socket.sendall(struct.pack("!I", len(startup) + 4) + startup)
        self._log_in()
        self.until_ready()

    def _log_in(self):
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        self._expect(b"R")
        initial = f"n,,{first}".encode()
        self.socket.sendall(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(initial)) + initial))
        challenge = self._expect(b"R")[4:].decode()
        parts = dict(part.split("=", 1) for part in challenge.split(","))
        key = salted(base64.b64decode(parts["s"]), int(parts["i"]))
        final = f"c=biws,r={parts['r']}"
        client_key = hmac256(key, b"Client Key")
        signature = hmac256(hashlib.sha256(client_key).digest(), f"{first},{challenge},{final}".encode())
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.socket.sendall(message(b"p", f"{final},p={base64.b64encode(proof).decode()}".encode()))

    def read(self):
        """The next message: (tag, body)."""
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack_from("!I", self.buffer, 1)[0]:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError("closed by the server")
            self.buffer += chunk
        end = 1 + struct.unpack_from("!I", self.buffer, 1)[0]
        tag, body = bytes(self.buffer[:1]), bytes(self.buffer[5:end])
        del self.buffer[:end]
        return tag, body

    def _expect(self, wanted):
        tag, body = self.read()
        if tag == b"E":
            raise ServerError(body)
        if tag != wanted:
            raise RuntimeError(f"{tag} instead of {wanted}")
        return body

    def until_ready(self):
        """Reads to ReadyForQuery; the last row's raw body, if there was a row."""
        row = None
        while True:
            tag, body = self.read()
            if tag == b"E":
                raise ServerError(body)
            if tag == b"D":
                row = body
            if tag == b"Z":
                return row

    def query(self, sql):
        self.socket.sendall(query_message(sql))
        return self.until_ready()

    def close(self):
        """Terminate, then FIN."""
        try:
            self.socket.sendall(message(b"X", b""))
        except OSError:
            pass  # Closed by the other side already.
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
