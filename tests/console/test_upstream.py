"""What we took over from others is what we think it is: an upgrade that changes an original fails here, loudly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import drf_spectacular
import pytest
import unfold

ORIGINALS = {
    "admin/base.html": "7428a8411d69ed8180178d888e37eaf05d73658d78c9e14eb04b79f0e8fe131c",
    "unfold/helpers/add_link.html": "b10877ba3500e4eb683cb8d7796c9672b9c623f7e2f340a88175f0a85a2ee08e",
    "unfold/helpers/edit_inline/tabular_field.html": "ab1aab4fedf9f2706e40d4ca830d5f9583fefbc4dfdf6a2bd9920fc5272268a8",
    "unfold/helpers/edit_inline/tabular_heading.html": "eef46d03bc1655adc47ba15a6ff551b9c8c2211e029fde4904aa5f4534b7251c",
    "unfold/helpers/empty_results.html": "830db82d60f52b85f55ec9c54658e438370fc3067887e4defd80b628d4e68112",
    "unfold/helpers/welcomemsg.html": "91ac76169f4c93b57e54cdd03af5aac3311f695014a529314f17ff4c2170c28a",
    "unfold/layouts/unauthenticated.html": "768501529f1a8dae820558f90c1ab782f0703a8504070678b390bc16c9c48cf3",
    "admin/nav_sidebar.html": "9ded21d2f1036a58f72624a573643ddb66887280fa696621289d6cf959d4eb08",
    "unfold/helpers/command.html": "e10d80a03e4657fadeff1badb421728a0e63e020f4f85092692a430d4d59cf6a",
    "unfold/helpers/navigation_user.html": "df49db2d72d7e8f24e0252b832a0fc0b14f309d47e3655fbaf3f08b4c5a4aae9",
    "unfold/layouts/skeleton.html": "062bb8d9caf56385289bde95c57e06c13dfc598fc3463332f967e8b52724d84c",
    "admin/login.html": "13deb7765ce366590d73a58f260f438aa8a3580851a7540b542c451e445c6b78",
    "admin/index.html": "dd345254af4ffc9aa1ed138264233f8d8c8706e13e0593b29c3af123207a2884",
}
"""Every Unfold template that `templates/` overrides, with the sum of the original it was made from."""

REFERENCE = "4d1e195317550710a41d486bd4b9496af993e58458f8005f5a1bb531967edc48"
"""The page around the API reference's viewer, which `templates/drf_spectacular/` overrides."""

ALPINE = "0d18d7f8d7910e2e0212f0f056b12f50bebc3abb7d88d2f7c7cb4c336fe4519a"


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ORIGINALS)
def test_an_overridden_template_still_has_the_original_it_was_made_from(name: str) -> None:
    original = Path(unfold.__file__).parent / "templates" / name
    assert sum_of(original) == ORIGINALS[name], (
        f"{name} changed upstream: compare, adapt templates/{name}, update"
    )


def test_the_reference_s_page_still_has_the_original_it_was_made_from() -> None:
    original = Path(drf_spectacular.__file__).parent / "templates/drf_spectacular/swagger_ui.html"
    assert sum_of(original) == REFERENCE


def test_no_template_overrides_unfold_unlisted(repository: Path) -> None:
    ours = {
        str(path.relative_to(repository / "templates")) for path in (repository / "templates").rglob("*.html")
    }
    theirs = Path(unfold.__file__).parent / "templates"
    assert {name for name in ours if (theirs / name).exists()} == set(ORIGINALS)


def test_alpine_is_the_csp_build_that_was_reviewed(repository: Path) -> None:
    vendored = repository / "static/console/vendor/alpine-csp-3.17.4.min.js"
    assert sum_of(vendored) == ALPINE
    assert ALPINE in (vendored.parent / "README.md").read_text()


def test_no_template_of_ours_switches_escaping_off(repository: Path) -> None:
    for path in (repository / "templates").rglob("*.html"):
        text = path.read_text()
        assert "|safe" not in text, path
        assert "autoescape" not in text, path
