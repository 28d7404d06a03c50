"""Objects in a bucket of an S3-compatible server; the only user of botocore, whose errors are translated here."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from dbha.backup.objects import StoredObject, StoreLostError, StoreUnreachableError
from dbha.backup.records import FAILURE, LOG, MARK, VERIFICATION
from dbha.backup.remote_names import WRITER
from dbha.config.model import ObjectLock
from dbha.errors import FoundWrongError
from dbha.secrets import Secret

_CONNECTIONS = 10
_NOT_THERE = ("NoSuchKey", "404", "NotFound")
# Codes of S3 that a later attempt may not meet; BadDigest is a body that was spoilt on its way.
_PASSING = (
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "BadDigest",
    "IncompleteBody",
)
_NO_LOCKS = ("ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed", "InvalidRequest")
_FORBIDDEN = 403
_CHANGING = (
    WRITER,
    VERIFICATION,
    MARK,
    FAILURE,
    LOG,
)  # files of a backup that are replaced, or removed, later
_HINT = "compare endpoint, bucket and region in dbha.yml, and the two keys among the secrets"


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a bucket is, and how to get in; `prefix` is empty or ends with a slash."""

    endpoint: str
    region: str
    bucket: str
    prefix: str
    access_key: Secret
    secret_key: Secret
    ca_file: Path | None
    timeout_s: float
    lock: ObjectLock | None = None


def lock_arguments(lock: ObjectLock, now: datetime) -> dict[str, Any]:
    """Return what PutObject is told so that the server refuses to delete or replace that version of an object."""
    return {
        "ObjectLockMode": lock.mode.upper(),
        "ObjectLockRetainUntilDate": now + timedelta(days=lock.days),
    }


class S3Objects:
    """See Objects."""

    def __init__(self, place: S3Place, where: str) -> None:
        self._place = place
        self.where = where

    def put(self, name: str, content: bytes) -> None:
        """See Objects. An object of S3 is there as a whole, or not at all; the server checks its MD5."""
        checksum = hashlib.md5(content, usedforsecurity=False).digest()
        lock = self._place.lock if name.rpartition("/")[2] not in _CHANGING else None
        retention = lock_arguments(lock, datetime.now(UTC)) if lock else {}
        with self._translated():
            self._client.put_object(
                Bucket=self._place.bucket,
                Key=self._key(name),
                Body=content,
                ContentMD5=base64.b64encode(checksum).decode(),
                **retention,
            )

    def get(self, name: str) -> bytes:
        """See Objects."""
        with self._translated():
            answer = self._client.get_object(Bucket=self._place.bucket, Key=self._key(name))
            return bytes(answer["Body"].read())

    def list(self, prefix: str) -> list[StoredObject]:
        """See Objects."""
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._place.bucket, Prefix=self._key(prefix)
            )
            return [
                StoredObject(each["Key"].removeprefix(self._place.prefix), each["Size"])
                for page in pages
                for each in page.get("Contents", ())
            ]

    def delete(self, name: str) -> None:
        """See Objects. In a bucket with Object Lock every version goes; one that is locked stays, and is hidden."""
        if self._place.lock:
            self._delete_versions(self._key(name))
            return
        try:
            with self._translated():
                self._client.delete_object(Bucket=self._place.bucket, Key=self._key(name))
        except FileNotFoundError:  # some servers say so, others do not
            return

    def locks(self) -> str:
        """See Objects."""
        lock = self._place.lock
        if lock is None:
            return ""
        try:
            answer = self._client.get_object_lock_configuration(Bucket=self._place.bucket)
            is_on = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
        except ClientError as error:
            is_on, told = False, error.response.get("Error", {})
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (401, 403):
                raise self._from_answer(error) from error
            if told.get("Code") not in _NO_LOCKS and status not in (404, 501):
                raise self._from_answer(error) from error
        except (BotoCoreError, OSError) as error:
            raise StoreLostError(f"{self.where} does not answer: {error}", hint=_HINT) from error
        if not is_on:
            raise FoundWrongError(
                f"{self.where} has no Object Lock",
                hint="it is switched on when a bucket is made: use one that has it, or take `object_lock` out",
            )
        return f"{lock.days} days, by the server's Object Lock ({lock.mode})"

    def _delete_versions(self, key: str) -> None:
        with self._translated():
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self._place.bucket, Prefix=key
            )
            versions = [
                each["VersionId"]
                for page in pages
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                if each["Key"] == key
            ]
            try:
                for version in versions:
                    self._client.delete_object(Bucket=self._place.bucket, Key=key, VersionId=version)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != _FORBIDDEN:
                    raise
                self._client.delete_object(Bucket=self._place.bucket, Key=key)

    def age_s(self, name: str) -> float:
        """See Objects. Both times are in one answer of the server."""
        with self._translated():
            answer = self._client.head_object(Bucket=self._place.bucket, Key=self._key(name))
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        stored: datetime = answer["LastModified"]
        return (now - stored).total_seconds()

    def free_bytes(self) -> int | None:
        """See Objects. S3 does not tell."""
        return None

    def close(self) -> None:
        """See Objects."""
        if "_client" in self.__dict__:
            self._client.close()
            del self.__dict__["_client"]

    def _key(self, name: str) -> str:
        return f"{self._place.prefix}{name}"

    @cached_property
    def _client(self) -> Any:
        place = self._place
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region,
            aws_access_key_id=place.access_key.reveal(),
            aws_secret_access_key=place.secret_key.reveal(),
            verify=str(place.ca_file) if place.ca_file else None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=place.timeout_s,
                read_timeout=place.timeout_s,
                max_pool_connections=_CONNECTIONS,
                retries={"total_max_attempts": 1},  # PatientObjects asks again, for every kind of store alike
                # Trailing checksums are AWS' own; other servers refuse them or store them as content.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._from_answer(error) from error
        except (ValueError, ParamValidationError) as error:  # an endpoint or a bucket that cannot be one
            raise StoreUnreachableError(f"{self.where} cannot be used: {error}", hint=_HINT) from error
        except (BotoCoreError, OSError) as error:
            raise StoreLostError(f"{self.where} does not answer: {error}", hint=_HINT) from error

    def _from_answer(self, error: ClientError) -> Exception:
        told = error.response.get("Error", {})
        code, status = str(told.get("Code", "")), error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _NOT_THERE:
            return FileNotFoundError(f"{self.where}: {code}")
        words = f"{code} ({told.get('Message') or status})"
        if status >= 500 or status == 429 or code in _PASSING:
            return StoreLostError(f"{self.where} does not answer: {words}", hint=_HINT)
        return StoreUnreachableError(f"{self.where} refuses: {words}", hint=_HINT)
