"""Stands before an OpenBao; answers 500 to a wrap that does not open, as some Vaults do."""

import http.client
import json

from tests.bao_server import Bao
from tests.http_servers import Asked, HttpServer

TEXT = "cipher: message authentication failed"


class Front(HttpServer):
    """Passes on what it is asked; ``calls`` are the operations.

    Args:
        bao: the server behind.
        whole: whether one wrap of a batch that does not open fails the whole call, without a word
            on the others.
    """

    def __init__(self, bao: Bao, *, whole: bool) -> None:
        super().__init__(self._pass_on)
        self.calls: list[str] = []
        self._behind, self._whole = bao.port, whole

    def _pass_on(self, asked: Asked) -> None:
        self.calls.append(asked.path.removeprefix("/v1/transit/").partition("/")[0])
        behind = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=10)
        headers = {name: value for name, value in asked.headers.items() if name != "Host"}
        behind.request(asked.command, asked.path, asked.body, headers)
        response = behind.getresponse()
        status, answer = response.status, response.read()
        behind.close()
        if TEXT.encode() in answer:
            status = 500
            answer = json.dumps({"errors": [TEXT]}).encode() if self._whole else answer
        asked.say(answer, status)
