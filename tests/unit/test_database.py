"""SQL that is put together."""

from dbha.database import _Connection, identified_by
from dbha.secrets import Secret


def test_a_password_is_given_as_the_hash_that_the_server_would_make() -> None:
    hashed = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"  # SELECT PASSWORD('password')
    assert identified_by(Secret("password")) == f"IDENTIFIED BY PASSWORD '{hashed}'"


def test_certificates_are_read_once_and_tls_stays_a_preference() -> None:
    one, other = _Connection(defer_connect=True), _Connection(defer_connect=True)
    assert one.ctx is other.ctx  # type: ignore[attr-defined]
    named = _Connection(defer_connect=True, ssl_verify_cert=True)
    assert named.ctx is not one.ctx, "one that is asked for has its own"  # type: ignore[attr-defined]
