"""The wire keeps buf's STANDARD rules where they can be read from the descriptors, and names its units."""

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

from support.tree import ROOT

PROTOS = sorted((ROOT / "proto/clusterai/v1").glob("*.proto"))
PACKAGE = "clusterai.v1"
UNITS = ("seconds", "bytes", "ratio", "celsius", "watts", "per_second", "1min", "count")
QUANTITIES = re.compile(
    r"(^|_)(memory|disk|size|swap|network|time|delay|interval|duration|age|temperature|power|busy)(_|$)"
)
# The resources of Dask are plain numbers by name, and it is Dask that gives them their meaning.
UNITLESS = {"WorkerSpec.ResourcesEntry.value"}


def described(name: str) -> FileDescriptor:
    descriptor: FileDescriptor = importlib.import_module(f"{PACKAGE}.{name}_pb2").DESCRIPTOR
    return descriptor


FILES = [described(path.stem) for path in PROTOS]


def messages() -> Iterator[Descriptor]:
    waiting = [message for file in FILES for message in file.message_types_by_name.values()]
    while waiting:
        message = waiting.pop()
        waiting.extend(message.nested_types)
        yield message


def enums() -> Iterator[EnumDescriptor]:
    yield from (enum for file in FILES for enum in file.enum_types_by_name.values())
    yield from (enum for message in messages() for enum in message.enum_types)


def services() -> Iterator[ServiceDescriptor]:
    yield from (service for file in FILES for service in file.services_by_name.values())


def fields() -> Iterator[tuple[str, FieldDescriptor]]:
    for message in messages():
        yield from (
            (f"{message.full_name.removeprefix(PACKAGE + '.')}.{field.name}", field) for field in message.fields
        )


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_every_file_is_of_the_package_that_its_folder_names() -> None:
    assert {file.package for file in FILES} == {PACKAGE}
    assert {path.parent for path in PROTOS} == {ROOT / "proto" / PACKAGE.replace(".", "/")}


def test_services_end_with_service_and_have_a_file_each() -> None:
    assert [service.name for service in services() if not service.name.endswith("Service")] == []
    assert [file.name for file in FILES if len(file.services_by_name) > 1] == []
    stems = {service.file.name: snake(service.name.removesuffix("Service")) for service in services()}
    assert {file: stem for file, stem in stems.items() if file != f"clusterai/v1/{stem}.proto"} == {}


def test_each_call_has_a_request_and_a_response_of_its_own() -> None:
    methods = [method for service in services() for method in service.methods]
    wrong = [
        m.full_name
        for m in methods
        if (m.input_type.name, m.output_type.name) != (f"{m.name}Request", f"{m.name}Response")
    ]
    assert wrong == []
    used = Counter(name for m in methods for name in (m.input_type.full_name, m.output_type.full_name))
    assert [name for name, count in used.items() if count > 1] == []


def test_enum_values_carry_the_name_and_begin_with_unspecified() -> None:
    for enum in enums():
        prefix = snake(enum.name).upper() + "_"
        assert enum.values_by_number[0].name == f"{prefix}UNSPECIFIED"
        assert [value.name for value in enum.values if not value.name.startswith(prefix)] == []


def test_names_have_their_case() -> None:
    assert [name for name, field in fields() if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)] == []
    assert [message.name for message in messages() if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", message.name)] == []


def test_numbers_name_their_unit() -> None:
    numbers = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_UINT64}
    for name, field in fields():
        fractional = field.cpp_type in numbers - {FieldDescriptor.CPPTYPE_UINT64}
        measured = field.cpp_type in numbers and QUANTITIES.search(field.name)
        if name not in UNITLESS and (fractional or measured):
            assert field.name.endswith(UNITS) or field.name in {"celsius", "watts"}, f"{name} names no unit"


def test_every_proto_has_stubs() -> None:
    assert len(PROTOS) == len(FILES) > 0


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.stem)
def test_removed_numbers_are_not_used_again(path: Path) -> None:
    """Field numbers grow without holes, or the hole is `reserved`: a number never gets a second meaning."""
    text = path.read_text()
    for message in described(path.stem).message_types_by_name.values():
        numbers = sorted(field.number for field in message.fields)
        if numbers != list(range(1, len(numbers) + 1)):
            assert re.search(rf"message {message.name} \{{[^}}]*reserved ", text), (
                f"{message.name} has holes: {numbers}"
            )
