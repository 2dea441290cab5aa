"""Round trips of a cold connection, counted by a client that notes each time it has to wait for an answer."""

import socket
import ssl
import struct
import time

from lab import DATABASE, USER, Lab
from wire import Client, query_message

CONNECT = 1  # TCP's own.


class Line:
    """A socket that counts how often something was sent and then waited for; with TLS on top when it is asked for."""

    def __init__(self, port):
        self.raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.trips, self.sent, self.arrivals, self.tls = CONNECT, False, 0, None

    def send_raw(self, data):
        self.raw.sendall(data)
        self.sent = True

    def recv_raw(self, size=65536):
        self.trips += self.sent
        self.sent = False
        # What is under way is there: one flight is read at once.
        time.sleep(0.05)
        self.arrivals += 1
        return self.raw.recv(size)

    def start_tls(self, session=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["postgresql"])
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if session:
            # A session belongs to the context that it was made by.
            context = session.context
        self.tls = context.wrap_bio(self.incoming, self.outgoing, session=session and session.session)
        self._until(self.tls.do_handshake)

    def _until(self, step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                # The client's last flight of the handshake goes out with what is said next.
                if data := self.outgoing.read():
                    self.send_raw(data)
                self.incoming.write(self.recv_raw())

    # What `wire.Client` wants of a socket.
    def sendall(self, data):
        if not self.tls:
            return self.send_raw(data)
        self.tls.write(data)
        self.send_raw(self.outgoing.read())

    def recv(self, size):
        return self._until(lambda: self.tls.read(size)) if self.tls else self.recv_raw(size)

    def close(self):
        self.raw.close()


def first_row(line):
    """Logs in by this line and asks for a row. Returns how many flights AuthenticationOk to ReadyForQuery came in."""
    client = Client.__new__(Client)
    client.buffer, client.socket = bytearray(), line
    startup = struct.pack("!I", 196608) + f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    line.sendall(struct.pack("!I", len(startup) + 4) + startup)
    client._log_in()
    before = line.arrivals
    client.until_ready()
    flights = line.arrivals - before
    line.sendall(query_message("select 1"))
    client.until_ready()
    return flights


def count_round_trips(table):
    with Lab() as lab:
        port = lab.pgfunnel(tls=True).port
        Client(port).close()
        found = {}
        line = Line(port)
        flights = [first_row(line)]
        found["plain", 5] = line.trips
        asked = Line(port)
        asked.send_raw(struct.pack("!II", 8, 80877103))
        if asked.recv_raw(1) != b"S":
            raise RuntimeError("no TLS")
        asked.start_tls()
        flights.append(first_row(asked))
        found["TLS by SSLRequest", 7] = asked.trips
        direct = Line(port)
        direct.start_tls()
        flights.append(first_row(direct))
        found["direct TLS", 6] = direct.trips
        again = Line(port)
        again.start_tls(direct.tls)
        flights.append(first_row(again))
        found["direct TLS, resumed", 6] = again.trips
        reused = again.tls.session_reused
    for (kind, least), trips in found.items():
        table.add(f"round trips to the first row, TCP's included, {kind}", f"{trips}", f"<= {least}", trips <= least)
    table.add("TLS session resumed", "yes" if reused else "no", "yes", bool(reused))
    table.add("AuthenticationOk ... ReadyForQuery: writes", str(max(flights)), "1", max(flights) == 1)
