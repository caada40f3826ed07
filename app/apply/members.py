"""The types of members in a declaration (a file for `callgate apply`), such as nullable values and references to secrets."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

ValueT = TypeVar("ValueT")

NULLABLE_MARK: Final = "x-nullable"
"""The key that marks a nullable member in the JSON Schema. `declaration_json_schema` replaces it by `anyOf` with null."""
_SECRET_ADVICE: Final = "a secret is written as {env: NAME} or {file: PATH}, never as its value"  # noqa: S105
_TEXT_OR_REFERENCE_ADVICE: Final = "must be text, {env: NAME} or {file: PATH}"


def declaration_error(text: str) -> PydanticCustomError:
    """Returns the error that a Pydantic validator raises for an invalid declaration. Its message is `text`.

    `text` must not contain values of the file, which may be secrets.
    """
    return PydanticCustomError("declaration", text)


@dataclass(frozen=True, slots=True)
class MatchesPattern:
    """A type annotation for text that must match `pattern` as a whole. The error text is "must be" and then `description`."""

    pattern: str
    description: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require_match, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^(?:{self.pattern})$"}

    def _require_match(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise declaration_error(f"must be {self.description}")
        return value


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise declaration_error("has no value: give one, or leave the member out")
    return value


def _require_single_line(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise declaration_error("must be text in one line")
    return value


Omittable = Annotated[ValueT | None, BeforeValidator(_refuse_null)]
"""The type of a member that may be left out, but must not be null. The attribute is None if the member is left out."""
Nullable = Annotated[ValueT | None, Field(json_schema_extra={NULLABLE_MARK: True})]
"""The type of a member that may be left out, or may be null. Null removes the stored value."""
OneLine = Annotated[str, AfterValidator(_require_single_line), Field(max_length=200, json_schema_extra={"pattern": r"\S"})]
"""Text in one line, not empty, at most 200 characters."""


class DeclarationModel(BaseModel):
    """The base class of all models of a declaration, the file for `callgate apply`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    def has_member(self, member: str) -> bool:
        """Returns whether the member is present in the file. True, too, if the value of the member is null."""
        return member in self.model_fields_set


class SecretReference(DeclarationModel):
    """The place of a secret: an environment variable of the command, or a file. The declaration itself contains no secret."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}]})

    env: Omittable[str] = Field(None, min_length=1, description="The name of an environment variable.")
    file: Omittable[str] = Field(
        None, min_length=1, description="The path of a file. A relative path begins at the folder of the declaring file."
    )

    @model_validator(mode="before")
    @classmethod
    def _require_secret_reference(cls, value: Any) -> Any:
        """Returns the value. Raises an error if it is not a reference to a secret.

        This check comes before Pydantic's own checks, whose errors could show a part of a secret.
        """
        if not _is_secret_reference(value):
            raise declaration_error(_SECRET_ADVICE)
        return value


def _is_secret_reference(value: Any) -> bool:
    """Returns whether the value is `{env: NAME}` or `{file: PATH}`."""
    match value:
        case {"env": str(name)} | {"file": str(name)} if len(value) == 1 and name:
            return True
    return False


def _require_text_or_secret(value: Any) -> Any:
    if not (isinstance(value, str) and value) and not _is_secret_reference(value):
        raise declaration_error(_TEXT_OR_REFERENCE_ADVICE)
    return value


TextOrReference = Annotated[Annotated[str, Field(min_length=1)] | SecretReference, BeforeValidator(_require_text_or_secret)]
"""Text that is not empty, or a reference to a secret."""
