"""Validates a document as a declaration of tenants. Each problem names the place in the file, but never shows the value."""

import difflib
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.apply.document import Document, DocumentInvalid, FileProblem, MemberPath
from app.apply.members import DeclarationModel
from app.apply.schemas import Declaration, DeclaredTenant
from app.deliveries.addresses import AllowList, UrlError, parse_delivery_url
from app.workloads.service_accounts import ServiceAccount

_REVOKED_BUT_DECLARED_MESSAGE = "declared as a credential, too: remove one of the two"
_PYDANTIC_MESSAGE_SUBJECT = re.compile(r"^(?:Input|List|String|Value) should")
_MESSAGES_BY_PYDANTIC_TYPE = {
    "missing": "is missing",
    "string_type": "must be text: put it in quotes",
    "string_unicode": "has a character that is not Unicode",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a list: each item begins with '- '",
    "model_type": "must be a mapping: `member: value`",
}


def validate_declaration(document: Document, *, allowed: AllowList, workload_issuer: str | None) -> Declaration:
    """Returns the declaration that the document contains. Raises DocumentInvalid, which lists the problems of the document.

    `allowed` lists the private addresses to which the operator allows webhooks. All other private addresses are refused.
    `workload_issuer` is the issuer of service accounts for which the file gives none.
    """
    if document.value is None:
        raise DocumentInvalid(FileProblem("the file is empty: it needs a list of `tenants`", line=1))
    try:
        declaration = Declaration.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
        raise DocumentInvalid(*(FileProblem(_validation_message(detail), detail["loc"]) for detail in details)) from None
    if problems := [
        *_duplicate_problems(declaration, document),
        *_workload_problems(declaration, document, workload_issuer),
        *_url_problems(declaration, allowed),
        *_hours_problems(declaration),
    ]:
        raise DocumentInvalid(*problems)
    return declaration


def _validation_message(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return _unknown_member_message(str(detail["loc"][-1]))
    message = _PYDANTIC_MESSAGE_SUBJECT.sub("must", detail["msg"]).partition(" after validation")[0]
    return _MESSAGES_BY_PYDANTIC_TYPE.get(detail["type"], message)


def _unknown_member_message(name: str) -> str:
    known = {
        field.alias or member
        for model in _subclasses_at_all_depths(DeclarationModel)
        for member, field in model.model_fields.items()
    }
    similar = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {similar[0]}?" if similar else "`callgate apply --schema` lists all members"
    return f"is not known: {advice}"


def _subclasses_at_all_depths(model: type[DeclarationModel]) -> Iterator[type[DeclarationModel]]:
    for child in model.__subclasses__():
        yield child
        yield from _subclasses_at_all_depths(child)


def _duplicate_problems(declaration: Declaration, document: Document) -> Iterator[FileProblem]:
    yield from _repetition_problems(
        "tenant", [(("tenants", i), tenant.id) for i, tenant in enumerate(declaration.tenants)], document
    )
    for number, tenant in enumerate(declaration.tenants):
        yield from _duplicate_problems_of_tenant(tenant, ("tenants", number), document)
    for path, account in declaration.accounts_with_paths():
        keys = [(place, credential.key_sid) for place, credential in account.credentials_with_paths(path) if credential.key_sid]
        yield from _repetition_problems("key", keys, document)
        for index, revoked in enumerate(account.revoked or ()):
            if revoked.lower() in (key.lower() for _, key in keys):
                yield FileProblem(f"this key is {_REVOKED_BUT_DECLARED_MESSAGE}", (*path, "revoked", index))


def _duplicate_problems_of_tenant(tenant: DeclaredTenant, path: MemberPath, document: Document) -> Iterator[FileProblem]:
    accounts = [((*path, "accounts", i), account.account_sid) for i, account in enumerate(tenant.accounts or ())]
    yield from _repetition_problems("account", accounts, document)
    named = [((*path, "sip_credentials", i), credential.name) for i, credential in enumerate(tenant.sip_credentials or ())]
    yield from _repetition_problems("SIP credential", named, document)
    for index, removal in enumerate(tenant.revoked or ()):
        if removal.sip_credential in {name for _, name in named}:
            yield FileProblem(f"this SIP credential is {_REVOKED_BUT_DECLARED_MESSAGE}", (*path, "revoked", index))


def _workload_problems(declaration: Declaration, document: Document, default_issuer: str | None) -> Iterator[FileProblem]:
    """Yields a problem for each service account that has no issuer, or that the file declares more than once.

    Also yields a problem for a service account that a tenant both declares and removes.
    """
    declared: list[tuple[MemberPath, ServiceAccount]] = []
    for number, tenant in enumerate(declaration.tenants):
        path: MemberPath = ("tenants", number)
        own = [
            ((*path, "workloads", index), workload.as_service_account(default_issuer))
            for index, workload in enumerate(tenant.workloads or ())
        ]
        declared += own
        removed = [
            ((*path, "revoked", index), removal.workload.as_service_account(default_issuer))
            for index, removal in enumerate(tenant.revoked or ())
            if removal.workload
        ]
        missing = "is missing: give it, or set CALLGATE_WORKLOAD_ISSUER"
        yield from (FileProblem(missing, (*place, "issuer")) for place, account in own if not account.issuer)
        yield from (FileProblem(missing, (*place, "workload", "issuer")) for place, account in removed if not account.issuer)
        for place, account in removed:
            if account in (each for _, each in own):
                yield FileProblem("this service account is declared as a workload, too: remove one of the two", place)
    yield from _repetition_problems("service account", declared, document)


def _repetition_problems(what: str, items: Iterable[tuple[MemberPath, Hashable]], document: Document) -> Iterator[FileProblem]:
    first: dict[Hashable, MemberPath] = {}
    for path, identity in items:
        if identity in first:
            yield FileProblem(
                f"this {what} is declared twice: the first time in line {document.line_of(first[identity])}", path
            )
        first.setdefault(identity, path)


def _url_problems(declaration: Declaration, allowed: AllowList) -> Iterator[FileProblem]:
    for number, tenant in enumerate(declaration.tenants):
        url: Any = tenant.callbacks and tenant.callbacks.url
        if url is not None and isinstance(error := parse_delivery_url(url, allowed), UrlError):
            path: MemberPath = ("tenants", number, "callbacks", "url")
            yield FileProblem(f"deliveries to this URL are not possible ({error.code}): {error.detail}", path)


def _hours_problems(declaration: Declaration) -> Iterator[FileProblem]:
    for number, tenant in enumerate(declaration.tenants):
        if tenant.hours is not None:
            yield from tenant.hours.problems_at(("tenants", number, "hours"))
