"""Messages as JSON: the shape that scripts rely on (docs/cli.md).

Field names are the wire's, enums their names in lower case, absent messages and times never set `null`.
"""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from clusteractl.words import enum_word

Json = dict[str, Any]


def shape(message: Message, **more: Any) -> Json:
    """Return the message as a JSON object, with further keys after its own."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields} | more


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if _is_map(field):
        return dict(sorted(value.items()))
    if _is_repeated(field):
        return [_one(field, item) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    if field.name.endswith("_unix_seconds") and not value:
        return None
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return shape(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if isinstance(value, bytes):
        return value.hex()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return float(f"{value:.7g}")  # a 32-bit float has seven digits; more would be noise
    return value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    """`label` is deprecated in the newest protobuf, `is_repeated` absent from Debian's."""
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED)
