"""Types of the requests that SubresourceService sends to Twilio."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlencode
from uuid import uuid4, uuid5

from app.calls.models import Call
from app.twilio.forwarding import QueryPairs
from app.twilio.subresources import IDEMPOTENCY_KEY_NAME, SubresourceOperation


@dataclass(frozen=True, slots=True)
class SubresourceRequest:
    """A request for a subresource of a call. `sid` is the SID of an item, or None to list items or to create one.

    `fields` has pairs of Twilio's parameter name and a value. `idempotency_key` is the client's header `Idempotency-Key`.
    """

    operation: SubresourceOperation
    sid: str | None
    fields: QueryPairs
    idempotency_key: str | None = None

    def fields_with_idempotency_key(self, call: Call) -> tuple[QueryPairs, bool]:
        """Returns the fields to send to Twilio, and whether the client can safely repeat the request.

        A repetition is safe if Twilio gets the same IdempotencyKey again. If the fields have no IdempotencyKey, this method
        derives one from the client's header `Idempotency-Key` and the request. Without the header, this method adds a random
        IdempotencyKey, and a repetition is not safe. If the operation takes no IdempotencyKey, the fields are unchanged, and a
        repetition is not safe either.
        """
        if not self.operation.takes_idempotency_key:
            return self.fields, False
        if any(name == IDEMPOTENCY_KEY_NAME and value for name, value in self.fields):
            return self.fields, True
        others = [(name, value) for name, value in self.fields if name != IDEMPOTENCY_KEY_NAME]
        if self.idempotency_key is None:
            return [*others, (IDEMPOTENCY_KEY_NAME, str(uuid4()))], False
        # Twilio does not carry out a second, different request with the same key: it answers with the first one's result.
        digest = sha256(urlencode(sorted(others)).encode()).hexdigest()
        name = "/".join((self.operation.subresource.segment, self.sid or "", self.idempotency_key, digest))
        return [*others, (IDEMPOTENCY_KEY_NAME, str(uuid5(call.id, name)))], True


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """A request for the audio of a recording. `suffix` is `.mp3` or `.wav`; `headers` has the client's `Range`, if any."""

    recording_sid: str
    suffix: str
    query: QueryPairs = ()
    headers: Mapping[str, str] = field(default_factory=dict)
