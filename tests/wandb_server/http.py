"""The server on loopback: GraphQL, file streams, files, and what a test controls."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb_server.graphql import Executor, GraphQLError
from wandb_server.records import Store, jloads, strict
from wandb_server.schema import Schema


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *a):  # quiet
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                if n == 0:
                    self.rfile.readline()
                    return out
                out += self.rfile.read(n)
                self.rfile.readline()
        n = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(n) if n else b""
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        return data

    def _send(
        self,
        code: int,
        body: Any = b"",
        ctype: str = "application/json",
        headers: dict | None = None,
    ) -> None:
        if not isinstance(body, (bytes, bytearray)):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", ctype)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin") or "*")
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _authed(self) -> bool:
        want = self.server.api_key
        head = self.headers.get("Authorization", "")
        if head.startswith("Basic "):
            try:
                key = base64.b64decode(head[6:]).decode().split(":", 1)[1]
            except (ValueError, IndexError):
                return False
            return bool(key) and (want is None or key == want)
        return head.startswith("Bearer ") and want is None

    def _handle(self) -> None:
        st = self.server.store
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        try:
            body = self._body()
        except (OSError, ValueError) as e:
            self._send(400, {"error": f"bad body: {e}"})
            return
        kind = (
            "graphql"
            if path == "/graphql"
            else "file_stream"
            if path.endswith("/file_stream")
            else "storage"
            if path.startswith("/__storage__/")
            else "control"
            if path.startswith("/__fake__/")
            else "artifact_get"
            if path.startswith(("/artifactsV2/", "/artifacts/"))
            else "telemetry"
            if path.startswith("/sdk/otel/")
            else "page"
        )
        with st.lock:
            st.http[f"{self.command} {kind}"] = st.http.get(f"{self.command} {kind}", 0) + 1
            fault = None
            if kind != "control":
                for f in st.faults:
                    if f["times"] > 0 and (f["match"] in path or f["match"].encode() in body):
                        f["times"] -= 1
                        fault = f
                        break
        if fault:
            if fault.get("delay"):
                time.sleep(float(fault["delay"]))
            if fault.get("drop"):
                self.close_connection = True
                self.connection.close()
                return
            if fault.get("status"):
                self._send(
                    int(fault["status"]),
                    {"error": "injected fault", "errors": [{"message": "injected fault"}]},
                )
                return
        try:
            if kind == "graphql":
                self._graphql(body)
            elif kind == "file_stream":
                self._file_stream(path, body)
            elif kind == "storage":
                self._storage(path, body)
            elif kind == "control":
                self._control(path, body)
            elif kind == "artifact_get":
                self._artifact_get(path)
            elif kind == "telemetry":  # the SDK's own usage metrics: counted, thrown away
                self._send(200, b"", "application/x-protobuf")
            else:
                self._page(path)
        finally:
            self.server.touch()

    def do_OPTIONS(self) -> None:
        self._body()
        self._send(
            204,
            b"",
            headers={
                "Access-Control-Allow-Methods": "GET, PUT, POST, HEAD, OPTIONS",
                "Access-Control-Allow-Headers": "*",
            },
        )

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _handle

    def _graphql(self, body: bytes) -> None:
        st = self.server.store
        if not self._authed():
            self._send(
                401, {"errors": [{"message": "user is not logged in"}], "error": "unauthorized"}
            )
            return
        req = jloads(body)
        if not isinstance(req, dict) or "query" not in req:
            self._send(400, {"errors": [{"message": "bad request"}]})
            return
        with st.lock:
            try:
                ex = Executor(st.unknown)
                name, data = ex.run(
                    req["query"],
                    req.get("operationName"),
                    req.get("variables") or {},
                    self.server.schema.query(),
                    self.server.schema.mutation(),
                )
            except GraphQLError as e:
                st.problem(f"graphql {req.get('operationName')}: {e}")
                self._send(200, {"data": None, "errors": [{"message": str(e)}]})
                return
            except Exception as e:  # noqa: BLE001 - a bug here must show in the state, not kill the client silently
                import traceback

                st.problem(
                    f"graphql {req.get('operationName')}: internal {type(e).__name__}: {e} :: {traceback.format_exc()[-600:]}"
                )
                self._send(500, {"errors": [{"message": f"wandb_server internal error: {e}"}]})
                return
            st.ops[name] = st.ops.get(name, 0) + 1
            if req["query"].lstrip().startswith("mutation") or "mutation " in req["query"][:200]:
                st.mutations.append(
                    {"op": name, "at": time.time(), "variables": _short(req.get("variables") or {})}
                )
        self._send(200, {"data": data})

    def _file_stream(self, path: str, body: bytes) -> None:
        st = self.server.store
        if not self._authed():
            self._send(401, {"error": "unauthorized"})
            return
        parts = path.strip("/").split("/")
        if len(parts) != 5 or parts[0] != "files":
            self._send(404, {"error": "bad file_stream path"})
            return
        with st.lock:
            run = st.run(parts[1], parts[2], parts[3])
            if run is None:
                st.problem(f"file_stream for unknown run {path}")
                self._send(404, {"error": "run not found"})
                return
            res = st.file_stream(run, jloads(body) or {})
        self._send(200, res)

    def _storage(self, path: str, body: bytes) -> None:
        st = self.server.store
        bid = path.rsplit("/", 1)[1]
        if self.command in ("PUT", "POST"):
            with st.lock:
                ok = st.put_blob(bid, body)
            self._send(
                200 if ok else 404,
                b"",
                headers={"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'},
            )
            return
        b = st.blobs.get(bid)
        if not b or not b["uploaded"]:
            self._send(404, {"error": "no such blob"})
            return
        self._send_bytes(Path(b["path"]).read_bytes())

    def _send_bytes(self, data: bytes) -> None:
        rng = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if rng:
            lo = int(rng[1])
            hi = min(int(rng[2]) if rng[2] else len(data) - 1, len(data) - 1)
            self._send(
                206,
                data[lo : hi + 1],
                "application/octet-stream",
                {"Content-Range": f"bytes {lo}-{hi}/{len(data)}"},
            )
        else:
            self._send(200, data, "application/octet-stream")

    def _artifact_get(self, path: str) -> None:
        st = self.server.store
        hexes = [p for p in path.split("/") if re.fullmatch(r"[0-9a-f]{32}", p)]
        b = next((b for b in st.blobs.values() if hexes and b.get("md5_hex") == hexes[-1]), None)
        if b is None:
            self._send(404, {"error": "no such object"})
        else:
            self._send_bytes(Path(b["path"]).read_bytes())

    def _control(self, path: str, body: bytes) -> None:
        st = self.server.store
        what = path.split("/")[2]
        arg = jloads(body) if body else {}
        if what == "state":
            self._send(200, json.dumps(strict(st.dump()), default=str, allow_nan=False))
        elif (
            what == "fault"
        ):  # {"match": "file_stream", "status": 500, "times": 3, "delay": 0, "drop": false}
            with st.lock:
                st.faults.append({"times": 1, **arg})
            self._send(200, {"ok": True})
        elif what == "stop":  # {"run_id": "..."}: press the dashboard's "Stop run"
            with st.lock:
                hit = [r for r in st.runs.values() if r["run_id"] == arg.get("run_id")]
                for r in hit:
                    r["stop_requested"] = True
            self._send(200, {"ok": bool(hit)})
        elif what == "reset":
            self.server.reset()
            self._send(200, {"ok": True})
        else:
            self._send(404, {"error": what})

    def _page(self, path: str) -> None:
        if self.command not in ("GET", "HEAD"):
            self.server.store.problem(f"unhandled {self.command} {path}")
            self._send(404, {"error": "not found"})
            return
        self._send(200, {"ok": True})


def _short(v: Any, n: int = 4000) -> Any:
    if isinstance(v, str):
        return v if len(v) <= n else v[:n] + f"...[{len(v)} chars]"
    if isinstance(v, dict):
        return {k: _short(x, n) for k, x in v.items()}
    if isinstance(v, list):
        return [_short(x, n) for x in v[:200]]
    return v


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, data: Path, state: Path | None, entity: str, api_key: str | None):
        super().__init__(("127.0.0.1", port), Handler)
        self.state_path = Path(state) if state else None
        self.api_key = api_key
        self.data, self.entity = Path(data), entity
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self.reset()
        self.writer = threading.Thread(target=self._write_loop, daemon=True)
        self.writer.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reset(self) -> None:
        self.store = Store(self.data, self.entity, self.base_url)
        self.schema = Schema(self.store)
        self.touch()

    def touch(self) -> None:
        self._dirty.set()

    def _write_loop(self) -> None:
        while not self._stop.is_set():
            if self._dirty.wait(0.5):
                self._dirty.clear()
                self.write_state()
                self._stop.wait(0.2)

    def write_state(self) -> None:
        if self.state_path is None:
            return
        tmp = self.state_path.with_suffix(f".tmp{threading.get_ident()}")
        tmp.write_text(
            json.dumps(strict(self.store.dump()), indent=1, default=str, allow_nan=False)
        )
        os.replace(tmp, self.state_path)

    def handle_error(self, request, client_address):
        err = sys.exc_info()[1]
        if not isinstance(err, (ConnectionError, TimeoutError)):
            self.store.problem(f"http handler: {type(err).__name__}: {err}")

    def close(self) -> None:
        self._stop.set()
        self.shutdown()
        self.server_close()
        self.write_state()
