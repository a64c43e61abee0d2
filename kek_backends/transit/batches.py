"""Calls of the transit engine for many items at once, each item with an outcome of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hvac import exceptions as of_hvac

from kek_backends.errors import KekError, Transient
from kek_backends.transit.answers import data_of, of_item, translate
from kek_backends.transit.tokens import Tokens
from kek_backends.uri import KekUri

# OpenBao refuses JSON of more than 1000 strings, names included: four an item.
MOST_ITEMS = 240

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches:
    """Makes such calls, with the token of the moment.

    Args:
        uri: of the KEK, for messages.
        tokens: what the calls are made with.
    """

    def __init__(self, uri: KekUri, tokens: Tokens) -> None:
        self._uri = uri
        self._tokens = tokens

    def each(
        self,
        items: Sequence[Item],
        entry: Callable[[Item], dict[str, str]],
        send: Callable[[Any, list[dict[str, str]]], Any],
        read: Callable[[Mapping[str, Any]], Result],
    ) -> list[Result | KekError]:
        """Make one call for all items that can be sent. Blocks.

        Args:
            items: so many as the server takes at once.
            entry: returns what is sent for an item; a KekError it raises is this item's outcome.
            send: makes the call, with an ``hvac.Client`` and the entries as its ``batch_input``.
            read: returns the result in what the server says of an item.

        Returns:
            For each item, in order, its result or why there is none.

        Raises:
            KekError: of the whole call.
            Exception: hvac's and requests' own.
        """
        outcomes: dict[int, Result | KekError] = {}
        entries: dict[int, dict[str, str]] = {}
        for at, item in enumerate(items):
            try:
                entries[at] = entry(item)
            except KekError as error:
                outcomes[at] = error
        answers = self._send(send, list(entries.values())) if entries else []
        if len(answers) != len(entries):
            raise Transient(
                f"{self._uri.text}: {len(entries)} items went in, {len(answers)} came out"
            )
        # The server keeps the order.
        for at, answer in zip(entries, answers, strict=True):
            outcomes[at] = self._outcome(answer, read)
        return [outcomes[at] for at in range(len(items))]

    def _send(
        self, send: Callable[[Any, list[dict[str, str]]], Any], entries: list[dict[str, str]]
    ) -> list[Any]:
        try:
            answer = self._tokens.call(lambda client: send(client, entries))
        except (of_hvac.InvalidRequest, of_hvac.InternalServerError) as error:
            # So comes a list in which an item failed, or all did. Its text holds the plaintext of
            # the others, and goes no further than this line.
            said = error.json if isinstance(error.json, dict) else {}
            results = (said.get("data") or {}).get("batch_results")
            if not isinstance(results, list):
                raise
            return results
        return list(data_of(self._uri, answer)["batch_results"])

    def _outcome(
        self, answer: Any, read: Callable[[Mapping[str, Any]], Result]
    ) -> Result | KekError:
        """Look at one item: one that failed also comes within a 200."""
        try:
            if answer.get("error"):
                return of_item(self._uri, answer["error"])
            return read(answer)
        except KekError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one answer that makes no sense fails its item
            return translate(self._uri, error)
