"""What the doctor finds, as plain data: for the command line, and for whoever else shows it."""

from kek_backends.findings import Finding

# Parts by subject: by their first word.
_SUBJECTS = {
    "settings": "settings and host",
    "listener": "settings and host",
    "files": "settings and host",
    "tls": "settings and host",
    "memory": "settings and host",
    "clock": "settings and host",
    "jwks": "tokens",
    "token": "tokens",
    "kek": "keys",
    "data-key": "keys",
    "drill": "keys",
    "rows": "rows and audit",
    "rewrap": "rows and audit",
    "rotations": "rows and audit",
    "audit": "rows and audit",
    "erasures": "rows and audit",
}
_OTHER = "database"


def as_object(finding: Finding) -> dict[str, str | None]:
    """Return a finding as JSON shows it; docs/reference/cli.md has the members."""
    return {
        "subject": subject_of(finding),
        "part": finding.part,
        "severity": finding.severity,
        "verdict": finding.verdict,
        "message": finding.message,
        "cure": finding.cure or None,
    }


def subject_of(finding: Finding) -> str:
    """Return what the part of a finding belongs to."""
    return _SUBJECTS.get(finding.part.partition(" ")[0], _OTHER)
