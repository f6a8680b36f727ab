"""Things that are allowed in one place only, or nowhere."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch

from support.tree import ROOT, modules, name_of, syntax

# Where a program is started. Each of these modules owns the programs that it starts.
MAY_START_PROGRAMS = (
    "common/clusterai/keytool.py",
    "common/clusterai/units/process.py",
    "common/clusterai/units/children.py",
    "common/clusterai/environment.py",
    "common/clusterai/installed_environment.py",
    "common/clusterai/pythons.py",
    "common/clusterai/journal.py",
    "common/clusterai/keytool.py",
    "daemon/clusteraid/local*.py",
    "daemon/clusteraid/repository/tools.py",
    "daemon/clusteractl/environment*.py",
    "agent/clusterai_agent/collectors/termux_api.py",
    "agent/clusterai_agent/discovery.py",
    "agent/clusterai_agent/ollama_release.py",
    "agent/clusterai_agent/setup_ollama.py",
)
STARTERS = {"subprocess.Popen", "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"}
STARTERS |= {
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "os.system",
    "os.popen",
    "os.fork",
    "os.posix_spawn",
}

# The two boundaries: one turns any error into a gRPC status, one into an exit code.
MAY_CATCH_EVERYTHING = ("daemon/clusteraid/interceptors.py", "common/clusterai/program.py")

# One module knows each outside thing.
ONLY_IN = {
    "dbus_fast": ("common/clusterai/units/systemd_bus.py",),
    "sqlite3": ("daemon/clusteraid/store*.py", "daemon/clusteraid/migrations*.py"),
    "cryptography": ("common/clusterai/pki.py", "common/clusterai/keytool.py"),
    "distributed": ("common/clusterai/dask_preload*.py",),
    "pynvml": (
        "agent/clusterai_agent/*nvml.py",
        "agent/clusterai_agent/*gpu.py",
        "agent/clusterai_agent/collectors/nvml.py",
    ),
    "aiosqlite": (),
    "dask": (),
    "requests": (),
    "yaml": (),
    "pickle": (),
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield file, dotted name and node of every call."""
    for path in modules():
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Call):
                yield name_of(path), ast.unparse(node.func), node


def imports() -> Iterator[tuple[str, str]]:
    """Yield file and top-level package of every import, deferred ones too."""
    for path in modules():
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Import):
                yield from ((name_of(path), alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield name_of(path), node.module.partition(".")[0]


def test_programs_are_started_only_where_they_are_owned() -> None:
    places = {file for file, name, _ in calls() if name in STARTERS}
    assert {file for file in places if not any(fnmatch(file, allowed) for allowed in MAY_START_PROGRAMS)} == set()


def test_no_command_is_a_string_for_a_shell() -> None:
    shells = [
        f"{file}:{node.lineno}"
        for file, name, node in calls()
        if name.endswith(("_shell", "os.system", "os.popen")) or any(word.arg == "shell" for word in node.keywords)
    ]
    assert shells == []


def test_each_outside_thing_is_met_in_one_module() -> None:
    elsewhere = {
        f"{file} imports {package}"
        for file, package in imports()
        if package in ONLY_IN and not any(fnmatch(file, allowed) for allowed in ONLY_IN[package])
    }
    assert elsewhere == set()


def test_only_the_two_boundaries_catch_everything() -> None:
    catchers = {
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.ExceptHandler)
        and catches_everything(node)
        and name_of(path) not in MAY_CATCH_EVERYTHING
    }
    assert catchers == set()


def catches_everything(node: ast.ExceptHandler) -> bool:
    """Tell whether a handler swallows every error: one that always raises again is a clean-up."""
    named = (
        {"Exception", "BaseException"} & {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
        if node.type
        else {""}
    )
    return bool(named) and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)


def test_a_certificate_is_left_unverified_only_to_read_the_authority() -> None:
    """Its fingerprint is in the token, and nothing is sent before it matches; from a clock only a sentence is made."""
    unverified = {
        name_of(path)
        for path in modules()
        for node in ast.walk(syntax(path))
        if (isinstance(node, ast.Attribute) and node.attr in {"CERT_NONE", "_create_unverified_context"})
        or (
            isinstance(node, ast.keyword)
            and node.arg == "verify"
            and isinstance(node.value, ast.Constant)
            and node.value.value is False
        )
    }
    assert unverified <= {"common/clusterai/shown_certificates.py"}


def test_unencrypted_grpc_is_only_for_the_local_socket() -> None:
    """File permissions guard the socket; nothing that another machine can reach goes without a certificate."""
    assert {file for file, name, _ in calls() if name.endswith("insecure_channel")} <= {"common/clusterai/rpc.py"}
    assert {file for file, name, _ in calls() if name.endswith("add_insecure_port")} <= {"daemon/clusteraid/serving.py"}


def test_a_maintainer_script_gives_no_file_away_as_root() -> None:
    """Directories belong to unprivileged users, who can put a link in the way: root must follow none."""
    for script in sorted((ROOT / "packaging/debian").glob("*.p*")):
        if script.suffix in (".preinst", ".postinst", ".prerm", ".postrm"):
            assert not {"chown", "chmod"} & set(script.read_text().split()), script
