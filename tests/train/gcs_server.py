"""A small Google Cloud Storage in this process: the part of its JSON API that a run uses.

After https://cloud.google.com/storage/docs/json_api: objects with generations, preconditions,
listings with prefix and delimiter, the three kinds of upload, ranges, batches of deletions.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TIME = "2024-01-01T00:00:00.000Z"


class Bucket(ThreadingHTTPServer):
    """Serves one bucket; `objects` maps names to contents."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("localhost", 0), _Handler)
        self.name = name
        self.objects: dict[str, bytes] = {}
        self.generations: dict[str, int] = {}
        self.written: list[str] = []  # names in the order of their uploads
        self.refuses = False  # everything
        self.refused: set[str] = set()  # methods of HTTP
        self.lock = threading.RLock()
        self.started: dict[str, tuple[str, bytes]] = {}  # resumable uploads

    def handle_error(self, *_: object) -> None:
        """Says nothing of clients that hang up, which they do when they end."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_port}"

    def put(self, name: str, content: bytes) -> None:
        with self.lock:
            self.written.append(name)
            self.objects[name] = content
            self.generations[name] = len(self.written)

    def remove(self, name: str) -> bool:
        with self.lock:
            self.generations.pop(name, None)
            return self.objects.pop(name, None) is not None

    def describe(self, name: str) -> dict[str, Any]:
        generation = str(self.generations[name])
        return {
            "kind": "storage#object",
            "bucket": self.name,
            "name": name,
            "size": str(len(self.objects[name])),
            "generation": generation,
            "metageneration": "1",
            "updated": TIME,
            "timeCreated": TIME,
        }

    def listing(self, query: dict[str, str]) -> dict[str, Any]:
        """Objects with a prefix; with a delimiter, names that have it become one prefix each."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        with self.lock:
            for name in sorted(self.objects):
                rest = name.removeprefix(prefix)
                if not name.startswith(prefix) or name < query.get("startOffset", ""):
                    continue
                if "endOffset" in query and name >= query["endOffset"]:
                    continue
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    items.append(self.describe(name))
        limit = int(query.get("maxResults", 1 << 30))
        return {"kind": "storage#objects", "items": items[:limit], "prefixes": sorted(prefixes)}


@contextmanager
def serve(name: str) -> Iterator[Bucket]:
    with Bucket(name) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Bucket

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _error(self, status: int, message: str) -> None:
        self._json({"error": {"code": status, "message": message}}, status)

    def _request(self) -> tuple[str | None, dict[str, str], bytes]:
        """Name of the object, if there is one, the query and the body."""
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = re.search(r"/b/([^/]+)(?:/o(?:/(.+))?)?$", url.path)
        self.bucket = match[1] if match else None
        return match and match[2] and unquote(match[2]), dict(parse_qsl(url.query)), body

    def _is_refused(self, name: str | None, query: dict[str, str]) -> bool:
        """Answers and returns True when the request is not to be served."""
        generation = self.server.generations.get(name or "", 0)
        refuses = self.server.refuses or self.command in self.server.refused
        if refuses or self.bucket not in (None, self.server.name):
            self._error(403, f"no access to the bucket {self.bucket}")
        elif int(query.get("ifGenerationMatch", generation)) != generation:
            self._error(412, "another generation")
        elif query.get("ifGenerationNotMatch") == str(generation):
            self._answer(304)
        else:
            return False
        return True

    def do_GET(self) -> None:
        name, query, _ = self._request()
        if self._is_refused(name, query):
            return
        with self.server.lock:
            if name is None:
                is_list = urlsplit(self.path).path.endswith("/o")
                self._json(self.server.listing(query) if is_list else {"name": self.bucket})
            elif name not in self.server.objects:
                self._error(404, f"no object {name}")
            elif query.get("alt") == "media":
                self._content(name)
            else:
                self._json(self.server.describe(name))

    def _content(self, name: str) -> None:
        content, headers = self.server.objects[name], {}
        headers["x_goog_generation"] = str(self.server.generations[name])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, content, **headers)
        first, last = int(asked[1]), min(int(asked[2] or 1 << 60), len(content) - 1)
        if first >= len(content):
            return self._error(416, "beyond the end")
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], **headers)

    def do_POST(self) -> None:
        name, query, body = self._request()
        name = query.get("name", name)
        if "/batch/" in self.path:
            return self._batch(body)
        if "upload_id" in query:
            return self._continue(query["upload_id"], body)
        kind = query.get("uploadType")
        if kind == "multipart":
            parts = _parts(self.headers["Content-Type"], body)
            name, body = json.loads(parts[0])["name"], parts[1]
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
        if self._is_refused(name, query):
            return None
        assert name is not None, self.path
        if kind == "resumable":
            number = str(len(self.server.started))
            self.server.started[number] = (name, b"")
            where = f"{self.server.url}/upload/storage/v1/b/{self.server.name}/o?upload_id={number}"
            return self._answer(200, Location=where)
        assert kind in ("media", "multipart"), self.path
        self.server.put(name, body)
        return self._json(self.server.describe(name))

    def do_PUT(self) -> None:
        _, query, body = self._request()
        self._continue(query["upload_id"], body)

    def _continue(self, number: str, body: bytes) -> None:
        """One more part of a resumable upload."""
        name, before = self.server.started[number]
        content = before + body
        self.server.started[number] = (name, content)
        if self.headers.get("Content-Range", "/0").endswith("/*"):  # more is to come
            self._answer(308, Range=f"bytes=0-{len(content) - 1}")
        else:
            self.server.put(name, content)
            self._json(self.server.describe(name))

    def do_DELETE(self) -> None:
        name, query, _ = self._request()
        if self._is_refused(name, query):
            return
        if self.server.remove(name or ""):
            self._answer(204)
        else:
            self._error(404, f"no object {name}")

    def _batch(self, body: bytes) -> None:
        answers = []
        for target in re.findall(rb"DELETE \S*/o/(\S+) HTTP", body):
            status = 204 if self.server.remove(unquote(target.decode())) else 404
            answers.append(
                f"--part\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} X\r\n"
            )
        content = ("\r\n".join(answers) + "\r\n--part--").encode()
        self._answer(200, content, Content_Type="multipart/mixed; boundary=part")


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """Bodies of the parts of a multipart message."""
    boundary = re.search(r"boundary=[\"']?([^\"';]+)", content_type)
    assert boundary, content_type
    marked = body.split(b"--" + boundary[1].encode())[1:-1]
    found = [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in marked]
    return [part.removesuffix(b"\n").removesuffix(b"\r") for part in found]
