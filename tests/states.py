"""The contract's state table, and what brings a vault into each of its states."""

import base64
import secrets

from tests.client import Answer, Client

WRAPPED = base64.b64encode(secrets.token_bytes(48)).decode()
IV = base64.b64encode(secrets.token_bytes(12)).decode()
OTHER_KEY = base64.b64encode(bytes(32)).decode()

STATES = ("nothing", "vault", "with_recovery", "zero_knowledge", "pending")

# route, by the client's method → per state: status, code, and the audit row's action and context
TABLE: dict[str, tuple[tuple[int, str | None, str, str | None], ...]] = {
    "key": (
        (404, "VAULT_NOT_INITIALISED", "failed_fetch", "not-initialised"),
        (200, None, "fetch", None),
        (200, None, "fetch", None),
        (200, None, "fetch", "zk-recovery-blob"),
        (200, None, "fetch", None),
    ),
    "init": (
        (200, None, "init", "created"),
        (200, None, "init", "already-exists"),
        (200, None, "init", "already-exists"),
        (200, None, "init", "already-exists-zk"),
        (200, None, "init", "already-exists"),
    ),
    "rotate": (
        (200, None, "rotate", "init-on-rotate"),
        (200, None, "rotate", None),
        (200, None, "rotate", None),
        (409, "ZK_ROTATE_FORBIDDEN", "rotate", "zk-rotate-forbidden"),
        (409, "ROTATION_PENDING", "rotate", "rotation-pending"),
    ),
    "set_recovery": (
        (404, "VAULT_NOT_INITIALISED", "recovery_set", "no-vault"),
        (200, None, "recovery_set", None),
        (200, None, "recovery_set", None),
        (200, None, "recovery_set", None),
        (200, None, "recovery_set", None),
    ),
    "clear_recovery": (
        (404, "VAULT_NOT_INITIALISED", "recovery_clear", "no-vault"),
        (200, None, "recovery_clear", "no-recovery-wrap"),
        (200, None, "recovery_clear", None),
        (409, "ZK_ACTIVE", "recovery_clear", "zk-active"),
        (200, None, "recovery_clear", "no-recovery-wrap"),
    ),
    "enable_zk": (
        (404, "VAULT_NOT_INITIALISED", "zk_enable", "no-vault"),
        (400, "RECOVERY_WRAP_MISSING", "zk_enable", "no-recovery-wrap"),
        (200, None, "zk_enable", None),
        (200, None, "zk_enable", "already-enabled"),
        (409, "ROTATION_PENDING", "zk_enable", "rotation-pending"),
    ),
    "disable_zk": (
        (404, "VAULT_NOT_INITIALISED", "zk_disable", "no-vault"),
        (200, None, "zk_disable", "already-disabled"),
        (200, None, "zk_disable", "already-disabled"),
        (200, None, "zk_disable", None),
        (200, None, "zk_disable", "already-disabled"),
    ),
    "begin_rotation": (
        (200, None, "rotation_begin", "init-on-rotate"),
        (200, None, "rotation_begin", None),
        (200, None, "rotation_begin", None),
        (409, "ZK_ROTATE_FORBIDDEN", "rotation_begin", "zk-rotate-forbidden"),
        (200, None, "rotation_begin", "already-pending"),
    ),
    "end_rotation": (
        (404, "VAULT_NOT_INITIALISED", "rotation_end", "no-vault"),
        (200, None, "rotation_end", "none-pending"),
        (200, None, "rotation_end", "none-pending"),
        (200, None, "rotation_end", "none-pending"),
        (200, None, "rotation_end", None),
    ),
    "reset": (
        (200, None, "reset", "created"),
        (200, None, "reset", None),
        (200, None, "reset", None),
        (200, None, "reset", None),
        (200, None, "reset", None),
    ),
}


async def bring(client: Client, state: str) -> str | None:
    """Bring a new user's vault into a state, and return its key where there is a vault."""
    level = STATES.index(state)
    if state == "pending":
        await client.init()
        pending = await client.begin_rotation()
        assert pending.status == 200
        return str(pending.json["masterKey"])
    key = (await client.init()).json["masterKey"] if level >= 1 else None
    if level >= 2:
        assert (await client.set_recovery(WRAPPED, IV)).status == 200
    if level >= 3:
        assert (await client.enable_zk()).status == 200
    return key


async def act(
    client: Client, route: str, key: str | None = None, if_match: str | None = None
) -> Answer:
    """Call a route of the table: the key is what turning zero-knowledge mode off hands back."""
    arguments = {"set_recovery": (WRAPPED, IV), "disable_zk": (key or OTHER_KEY,)}.get(route, ())
    precondition = () if route in {"key", "init"} else (if_match,)
    answer: Answer = await getattr(client, route)(*arguments, *precondition)
    return answer
