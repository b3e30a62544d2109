"""Who is let in: no path but the open ones without a key, however it is spelt."""

from __future__ import annotations

import httpx2 as httpx
import pytest
from limited import KEY, TEXT, Limited, refused, whole


def test_every_path_but_health_wants_a_key(usual: Limited) -> None:
    document = usual.http.get("/openapi.json").json()
    asked = [(method, path) for path, operations in document["paths"].items() for method in operations]
    assert len(asked) > 8
    asked += [("get", "/openapi.json"), ("get", "/nowhere"), ("get", "/health/"), ("put", TEXT)]
    wrong = [
        "",
        "Bearer",
        "Bearer sk-wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY.upper()}",
    ]
    wrong += [f"Basic {KEY}", KEY, f"Bearer {KEY} {KEY}", f"Bearer {KEY},sk-other", "Bearer # of the tests"]
    with httpx.Client(base_url=usual.http.base_url, timeout=60) as nobody:
        for method, path in asked:
            for header in wrong:
                response = nobody.request(method, path, headers={"authorization": header} if header else {})
                if path == "/health":
                    assert response.json() == {"status": "ok"}
                    continue
                refused(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["//health", "/x/../health", "/health/../metrics", "/HEALTH", "/health%00", "/live?/health"]
)
def test_no_spelling_of_a_path_is_open(usual: Limited, path: str) -> None:
    with usual.connect(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()) as connection:
        assert whole(connection).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", "Bearer sk-other"])
def test_each_key_of_the_file_opens(usual: Limited, header: str) -> None:
    assert usual.http.get("/v1/models", headers={"authorization": header}).status_code == 200
