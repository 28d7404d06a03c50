"""SQL that is put together."""

from dbha.database import identified_by
from dbha.secrets import Secret


def test_a_password_is_given_as_the_hash_that_the_server_would_make() -> None:
    hashed = "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19"  # SELECT PASSWORD('password')
    assert identified_by(Secret("password")) == f"IDENTIFIED BY PASSWORD '{hashed}'"
