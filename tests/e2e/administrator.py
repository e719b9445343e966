"""A person at the admin pages, over real HTTP: logs in with the form, keeps the cookies, reads pages."""

from __future__ import annotations

import re
from types import TracebackType

import httpx

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class Administrator:
    """A session of the admin site. Raises AssertionError where the login is refused or a page is not a 200."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, follow_redirects=True, timeout=30)
        form = self._client.get("/admin/login/?next=/admin/")
        found = _TOKEN.search(form.text)
        assert found, f"the login page has no form: {form.status_code} {form.text[:300]}"
        fields = {"username": username, "password": password, "next": "/admin/"}
        headers = {"referer": f"{url}/admin/login/"}
        answer = self._client.post(
            "/admin/login/?next=/admin/", data={**fields, "csrfmiddlewaretoken": found[1]}, headers=headers
        )
        assert answer.status_code == 200, f"login: {answer.status_code} {answer.text[:300]}"
        assert answer.url.path == "/admin/", f"login ended at {answer.url}"

    def __enter__(self) -> Administrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def page(self, path: str) -> str:
        """The HTML of a page."""
        answer = self._client.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        assert "csrfmiddlewaretoken" not in answer.text or "/admin/login/" not in str(answer.url), (
            f"{path} led to the login page"
        )
        return answer.text
