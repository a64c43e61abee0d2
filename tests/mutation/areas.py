"""What is mutated, and by which tests it is judged: those that are quick and cover it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """Some modules that belong together, and their tests.

    Args:
        modules: patterns of their files.
        tests: files of tests, or nodes in them, that need no daemon of their own.
        leave_out: words of ``pytest -k``: tests that can't run where functions are wrapped.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    leave_out: str = ""


AREAS = {
    "custody/vault": Area(
        ("custody/vault/*.py",),
        (
            "tests/unit/test_seals.py",
            "tests/unit/test_seal_encoding.py",
            "tests/unit/test_row_seals.py",
            "tests/unit/test_brake.py",
            "tests/unit/test_audited.py",
            "tests/unit/test_master_keys.py",
            "tests/http/test_alone.py",
            "tests/http/test_lost_races.py",
            "tests/http/test_states.py",
            "tests/http/test_rotation.py",
            "tests/http/test_preconditions.py",
            "tests/http/test_failures.py",
            "tests/http/test_audit_route.py",
            "tests/http/test_brake.py",
            "tests/db/test_group_commit.py",
            "tests/db/test_audit_row_seals.py",
            "tests/rewrap/test_bringing_over.py",
            "tests/e2e/test_vault_machine.py",
        ),
    ),
    "custody/auth": Area(
        ("custody/auth/*.py",),
        (
            "tests/unit/test_tokens.py",
            "tests/unit/test_jwks.py",
            "tests/unit/test_step_up.py",
            "tests/unit/test_token_diagnostics.py",
            "tests/unit/test_verified_tokens.py",
            "tests/unit/test_refused_tokens.py",
            "tests/unit/test_wycheproof_tokens.py",
        ),
    ),
    "custody/rewrap": Area(
        ("custody/rewrap/*.py",),
        (
            "tests/unit/test_backoff.py",
            "tests/unit/test_rewrap_progress.py",
            "tests/unit/test_rewrap_batches.py",
            "tests/unit/test_resealing.py",
            "tests/unit/test_deep_rotation.py",
            "tests/rewrap/test_background.py",
            "tests/rewrap/test_daemon.py",
            "tests/rewrap/test_second_root.py",
            "tests/rewrap/test_worker.py",
            "tests/rewrap/test_deep.py",
            "tests/rewrap/test_data_keys.py",
            "tests/rewrap/test_claims.py",
            "tests/rewrap/test_bringing_over.py",
            "tests/rewrap/test_pending.py",
        ),
    ),
    "custody/datakeys": Area(
        ("custody/datakeys/*.py",),
        (
            "tests/unit/test_ring.py",
            "tests/unit/test_envelope.py",
            "tests/unit/test_making.py",
            "tests/unit/test_promotion.py",
            "tests/unit/test_data_key_diagnostics.py",
            "tests/unit/test_data_key_parts.py",
            "tests/unit/test_seals.py",
            "tests/unit/test_seal_encoding.py",
            "tests/db/test_first_data_key.py",
            "tests/db/test_drill.py",
        ),
    ),
    "custody/audit": Area(
        ("custody/audit/*.py",),
        (
            "tests/unit/test_merkle.py",
            "tests/unit/test_ocsf.py",
            "tests/unit/test_note.py",
            "tests/unit/test_audit_history.py",
            "tests/unit/test_audit_datagrams.py",
            "tests/unit/test_audit_stream.py",
            "tests/unit/test_audit_tail.py",
            "tests/unit/test_audit_walk.py",
            "tests/unit/test_export_file.py",
            "tests/unit/test_place_file.py",
            "tests/unit/test_syslog_message.py",
            "tests/unit/test_ended_key.py",
            "tests/unit/test_row_seals.py",
            "tests/db/test_group_commit.py",
            "tests/db/test_audit_leaf.py",
            "tests/db/test_audit_keys.py",
            "tests/db/test_audit_sealer.py",
            "tests/db/test_audit_verify.py",
            "tests/db/test_audit_tamperings.py",
            "tests/db/test_audit_prune.py",
            "tests/db/test_audit_prune_attacks.py",
            "tests/db/test_audit_redact.py",
            "tests/db/test_audit_export.py",
            "tests/db/test_audit_follow.py",
        ),
    ),
    "kek_backends": Area(
        (
            "kek_backends/aead.py",
            "kek_backends/base.py",
            "kek_backends/binding.py",
            "kek_backends/keyring.py",
            "kek_backends/local.py",
            "kek_backends/proof.py",
            "kek_backends/wrap.py",
        ),
        (
            "tests/kek/test_aead.py",
            "tests/kek/test_base.py",
            "tests/kek/test_binding.py",
            "tests/kek/test_env.py",
            "tests/kek/test_keyring.py",
            "tests/kek/test_systemd.py",
            "tests/kek/test_wycheproof.py",
            "tests/unit/test_envelope.py",
        ),
    ),
}
