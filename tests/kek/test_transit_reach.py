"""A transit server that can't be reached: the line says where and why."""

import asyncio

from kek_backends.errors import Transient
from tests.kek.kit import failure, transit_kek
from tests.ports import free_port


async def reason(address: str) -> str:
    kek = transit_kek("custody", {"VAULT_ADDR": address, "VAULT_TOKEN": "held-for-a-test"})
    error = await failure(kek.refresh())
    await kek.close()
    assert type(error) is Transient
    return str(error)


async def test_nobody_listens() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert f"(VAULT_ADDR, {address}: Connection refused)" in await reason(address)


async def test_host_that_is_not_known() -> None:
    said = await reason("https://nowhere.invalid:8200")
    assert "VAULT_ADDR, https://nowhere.invalid:8200: " in said
    assert "Error" not in said  # in words, not by the name of an exception


async def test_tls_to_a_plain_port() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        said = await reason(f"https://127.0.0.1:{port}")
    assert f"https://127.0.0.1:{port}: the port speaks no TLS: is it http?" in said
