"""The floors of the house: who may import whom. import-linter holds the same along indirect ways."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.sources import APPS, PACKAGES, ROOT, Source, list_sources

GATEWAY_MAY_USE = (
    "gateway",
    "orchestration.engine",
    "providers.adapters",
    "providers.simulation",
    "routing.engine",
    "tokenhub.core",
    "usage.journal",
    "vault.engine",
    "vault.keyring",
    "vault.places",
)
GATEWAY_LIBRARIES = {
    "cryptography",
    "aiohttp",
    "httptools",
    "jsonschema_rs",
    "msgspec",
    "uvloop",
    "yarl",
}  # yarl: aiohttp's URLs
PURE = (
    "orchestration.engine",
    "providers.adapters",
    "providers.simulation",
    "routing.engine",
    "usage.journal",
    "vault.engine",
    "vault.keyring",
    "vault.places",
)
PURE_LIBRARIES = {"msgspec"}
PURE_LIBRARIES_OF = {"vault.engine": {"cryptography"}, "routing.engine": {"re2"}}
MAY_STAND_ON = {"vault.keyring": ("vault.engine", "vault.places"), "vault.places": ("vault.engine",)}
"""Pure packages that may use another one: what holds the keys uses what opens them."""
MAY_BUILD_ON = {"vllm": {"openai", "anthropic"}, "simulated": {"openai", "anthropic"}}
"""Adapters that may use others: vLLM speaks both formats, and so does the simulation."""


def inside(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of these packages or in one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_the_sources_are_found() -> None:
    modules = {source.module for source in list_sources()}
    assert {
        "gateway.app",
        "tokenhub.core.specs",
        "providers.adapters.base",
        "usage.journal",
        "manage",
    } <= modules


def test_the_contract_uses_the_standard_library_only() -> None:
    wrong = [
        f"{source.path}:{line} imports {module}"
        for source in list_sources()
        if inside(source.module, ("tokenhub.core",))
        for line, module, _ in source.imports()
        if not inside(module, ("tokenhub.core",)) and module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_the_gateway_uses_only_what_it_may() -> None:
    wrong = []
    for source in list_sources():
        if not inside(source.module, ("gateway",)):
            continue
        for line, module, name in source.imports():
            top = module.split(".")[0]
            whole = f"{module}.{name}" if name else module
            ours = top in PACKAGES and not (inside(module, GATEWAY_MAY_USE) or inside(whole, GATEWAY_MAY_USE))
            library = top not in PACKAGES and top not in sys.stdlib_module_names | GATEWAY_LIBRARIES
            if ours or library:
                wrong.append(f"{source.path}:{line} imports {whole}")
    assert wrong == []


def test_the_pure_packages_use_the_contract_and_each_their_own_parts() -> None:
    wrong = []
    for source in list_sources():
        home = next((package for package in PURE if inside(source.module, (package,))), None)
        if home is None:
            continue
        app = home.split(".")[0]
        for line, module, name in source.imports():
            top = module.split(".")[0]
            whole = f"{module}.{name}" if name else module
            if home == "providers.adapters" and inside(whole, ("providers.simulation",)):
                continue  # The simulated adapter reads the settings of the simulation that answers it.
            # A pure module may be split into underscored modules beside it, which are pure likewise.
            beside = module.startswith(f"{app}._") or whole.startswith(f"{app}._") or whole == home
            ours = top in PACKAGES and not (
                inside(module, (home, "tokenhub.core", *MAY_STAND_ON.get(home, ())))
                or inside(whole, (home,))
                or beside
            )
            libraries = PURE_LIBRARIES | PURE_LIBRARIES_OF.get(home, set())
            library = top not in PACKAGES and top not in sys.stdlib_module_names | libraries
            if ours or library:
                wrong.append(f"{source.path}:{line} imports {whole}")
    assert wrong == []


def test_an_adapter_knows_no_other_adapter() -> None:
    wrong = []
    for source in list_sources():
        parts = source.module.split(".")
        if parts[:2] != ["providers", "adapters"] or len(parts) < 3 or parts[2] == "registry":
            continue
        for line, module, name in source.imports():
            whole = f"{module}.{name}" if module == "providers.adapters" else module
            target = whole.split(".")[2] if whole.startswith("providers.adapters.") else None
            allowed = {"base", parts[2], *MAY_BUILD_ON.get(parts[2], set())}
            if target is not None and target not in allowed and not target.startswith("_"):
                wrong.append(f"{source.path}:{line} imports {whole}")
    assert wrong == []


def test_the_control_plane_does_not_import_the_gateway() -> None:
    wrong = [
        f"{source.path}:{line}"
        for source in list_sources()
        if inside(source.module, (*APPS, "tokenhub.control"))
        for line, module, _ in source.imports()
        if inside(module, ("gateway",))
    ]
    assert wrong == []


def test_nothing_imports_the_wiring() -> None:
    wiring = ("tokenhub.asgi", "tokenhub.settings", "tokenhub.urls")
    wrong = [
        f"{source.path}:{line} imports {module}"
        for source in list_sources()
        for line, module, name in source.imports()
        if inside(module, wiring) or f"{module}.{name}" in wiring
    ]
    assert wrong == []


MAY_CONNECT = {
    "console.management.commands.healthcheck": "asks the server on this machine, at the address of its own setting",
}
WAYS_OUT = ("http.client", "urllib.request", "ftplib", "smtplib", "socketserver", "xmlrpc", "telnetlib")
CONNECTING_CALLS = {
    "create_connection",
    "open_connection",
    "getaddrinfo",
    "gethostbyname",
    "sock_connect",
    "urlopen",
}
OWN_CALLS = {"gateway.upstream.pool", "gateway.upstream.guard", "tokenhub.control.outbound"}


def test_nothing_but_the_guarded_clients_connects_or_resolves_by_itself() -> None:
    """The libraries are held by an import contract; these are the standard library's ways past it."""
    wrong = []
    for source in list_sources():
        for line, module, name in source.imports():
            if inside(f"{module}.{name}" if name else module, WAYS_OUT) and source.module not in MAY_CONNECT:
                wrong.append(f"{source.path}:{line} imports {module}")
        for node in ast.walk(source.tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
            if called in CONNECTING_CALLS and source.module not in OWN_CALLS:
                wrong.append(f"{source.path}:{node.lineno} calls {called}")
    assert wrong == []


def _private_imports(source: Source) -> list[str]:
    home = source.module.split(".")[0]
    found = []
    for line, module, name in source.imports():
        parts = module.split(".")
        if parts[0] in PACKAGES and parts[0] != home:
            private = [part for part in (*parts, name) if part.startswith("_") and not part.startswith("__")]
            if private:
                found.append(f"{source.path}:{line} imports {module}.{name}")
    return found


def test_no_package_imports_private_names_of_another() -> None:
    assert [problem for source in list_sources() for problem in _private_imports(source)] == []


@pytest.mark.parametrize("module", ["gateway.app", *PURE])
def test_a_fresh_interpreter_that_imports_it_has_no_django(module: str) -> None:
    if (
        not (ROOT / module.replace(".", "/")).exists()
        and not (ROOT / f"{module.replace('.', '/')}.py").exists()
    ):
        assert module == "orchestration.engine", f"{module} is gone"
        return
    program = (
        f"import sys, {module}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'django', 'rest_framework', 'psycopg', 'environ'}))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
