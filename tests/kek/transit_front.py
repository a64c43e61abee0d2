"""Stands before an OpenBao; answers 500 to a wrap that does not open, as some Vaults do."""

import json

import requests

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
        self._behind, self._whole = bao.address, whole

    def _pass_on(self, asked: Asked) -> None:
        self.calls.append(asked.path.removeprefix("/v1/transit/").partition("/")[0])
        url = self._behind + asked.path
        reply = requests.request(
            asked.command, url, data=asked.body, headers=dict(asked.headers), timeout=10
        )
        status, answer = reply.status_code, reply.content
        if TEXT.encode() in answer:
            status = 500
            answer = json.dumps({"errors": [TEXT]}).encode() if self._whole else answer
        asked.say(answer, status)
