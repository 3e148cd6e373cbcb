"""Passes connections on to a unix socket: `relay.py PORT SOCKET`."""

import socket
import sys
import threading


def pump(source: socket.socket, target: socket.socket) -> None:
    while piece := source.recv(65536):
        target.sendall(piece)
    target.shutdown(socket.SHUT_WR)


with socket.create_server(("", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(sys.argv[2])
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
