"""An issuer's keys by HTTPS, run inside a throw-away system.

    python3 issuer.py FOLDER

Standard library alone: it runs under the interpreter of the system.
"""

import http.server
import ssl
import sys
from functools import partial
from pathlib import Path


def main() -> None:
    """Serve FOLDER/www with the key and the certificate in FOLDER/key.pem."""
    folder = Path(sys.argv[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "key.pem")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder / "www")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
