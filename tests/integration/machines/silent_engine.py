"""Takes requests and never answers: `silent_engine.py PORT`. Says `asked` for each."""

import socket
import sys

with socket.create_server(("", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    taken = []
    while True:
        connection, _ = listener.accept()
        connection.recv(65536)
        taken.append(connection)
        print("asked", flush=True)
