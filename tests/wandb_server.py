"""A small stand-in for the W&B backend, on loopback, for tests with the REAL wandb client.

    with FakeWandb(tmp_path) as srv:
        subprocess.run([...], env={**os.environ, **srv.env()}, check=True)
        state = srv.state()                         # everything received, as plain dicts

It needs the standard library alone, and for `wandb sweep` PyYAML, which comes with wandb.

What it speaks (found out by running wandb 0.31.0 against it):
  POST /graphql                                      GraphQL, by a real little parser/executor
  POST /files/{entity}/{project}/{run}/file_stream   history, summary, system metrics, console
  PUT/GET /__storage__/{blob}                        run files and artifact files
  GET  /artifactsV2/... , /artifacts/...             artifact downloads by digest
  POST /sdk/otel/...                                 the SDK's usage telemetry: counted, thrown away
  GET  /__fake__/state , POST /__fake__/fault|stop|reset   for the test itself

It never leaves 127.0.0.1 and never stores an API key.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import hashlib
import itertools
import json
import math
import os
import posixpath
import random
import re
import string
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# --------------------------------------------------------------------------- GraphQL, parsing

_TOKEN = re.compile(
    r'''(?P<ws>[\s,\ufeff]+|\#[^\n]*)|(?P<block>"""(?:[^\\]|\\.)*?""")|(?P<str>"(?:[^"\\\n]|\\.)*")'''
    r"""|(?P<spread>\.\.\.)|(?P<float>-?\d+(?:\.\d+)?[eE][+-]?\d+|-?\d+\.\d+)|(?P<int>-?\d+)"""
    r"""|(?P<name>[_A-Za-z]\w*)|(?P<punct>[!$&()\[\]{}:=@|])""",
    re.S,
)


class GraphQLError(Exception):
    pass


class Var(str):
    pass


class Enum(str):
    pass


class _Parser:
    def __init__(self, text: str):
        self.toks: list[tuple[str, str]] = []
        pos = 0
        while pos < len(text):
            m = _TOKEN.match(text, pos)
            if not m:
                raise GraphQLError(f"syntax error at {text[pos : pos + 20]!r}")
            if m.lastgroup != "ws":
                self.toks.append((m.lastgroup or "", m.group()))
            pos = m.end()
        self.i = 0

    def peek(self) -> str | None:
        return self.toks[self.i][1] if self.i < len(self.toks) else None

    def kind(self) -> str | None:
        return self.toks[self.i][0] if self.i < len(self.toks) else None

    def next(self) -> str:
        if self.i >= len(self.toks):
            raise GraphQLError("unexpected end of document")
        self.i += 1
        return self.toks[self.i - 1][1]

    def expect(self, tok: str) -> None:
        got = self.next()
        if got != tok:
            raise GraphQLError(f"expected {tok!r}, got {got!r}")

    def document(self) -> tuple[list[dict], dict[str, dict]]:
        ops, frags = [], {}
        while self.peek() is not None:
            tok = self.peek()
            if tok == "fragment":
                self.next()
                name = self.next()
                self.expect("on")
                cond = self.next()
                self.directives()
                frags[name] = {"on": cond, "sel": self.selection()}
            elif tok == "{":
                ops.append({"op": "query", "name": None, "vars": {}, "sel": self.selection()})
            elif tok in ("query", "mutation", "subscription"):
                op = self.next()
                name = self.next() if self.kind() == "name" else None
                defaults: dict[str, Any] = {}
                if self.peek() == "(":
                    self.next()
                    while self.peek() != ")":
                        self.expect("$")
                        var = self.next()
                        self.expect(":")
                        self.type_()
                        if self.peek() == "=":
                            self.next()
                            defaults[var] = self.value()
                        self.directives()
                    self.next()
                self.directives()
                ops.append({"op": op, "name": name, "vars": defaults, "sel": self.selection()})
            else:
                raise GraphQLError(f"unexpected {tok!r}")
        return ops, frags

    def type_(self) -> None:
        if self.peek() == "[":
            self.next()
            self.type_()
            self.expect("]")
        else:
            self.next()
        if self.peek() == "!":
            self.next()

    def value(self) -> Any:
        kind, tok = self.kind(), self.next()
        if tok == "$":
            return Var(self.next())
        if tok == "[":
            out = []
            while self.peek() != "]":
                out.append(self.value())
            self.next()
            return out
        if tok == "{":
            obj = {}
            while self.peek() != "}":
                key = self.next()
                self.expect(":")
                obj[key] = self.value()
            self.next()
            return obj
        if kind == "str":
            return json.loads(tok)
        if kind == "block":
            return tok[3:-3]
        if kind == "int":
            return int(tok)
        if kind == "float":
            return float(tok)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(tok, Enum(tok))
        raise GraphQLError(f"bad value {tok!r}")

    def arguments(self) -> dict[str, Any]:
        args: dict[str, Any] = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                name = self.next()
                self.expect(":")
                args[name] = self.value()
            self.next()
        return args

    def directives(self) -> list[tuple[str, dict]]:
        out = []
        while self.peek() == "@":
            self.next()
            name = self.next()
            out.append((name, self.arguments()))
        return out

    def selection(self) -> list[dict]:
        self.expect("{")
        out = []
        while self.peek() != "}":
            if self.peek() == "...":
                self.next()
                if self.peek() == "on" or self.peek() in ("{", "@"):
                    cond = None
                    if self.peek() == "on":
                        self.next()
                        cond = self.next()
                    dirs = self.directives()
                    out.append({"t": "inline", "on": cond, "dirs": dirs, "sel": self.selection()})
                else:
                    name = self.next()
                    out.append({"t": "spread", "name": name, "dirs": self.directives()})
                continue
            name = self.next()
            alias = name
            if self.peek() == ":":
                self.next()
                name = self.next()
            args = self.arguments()
            dirs = self.directives()
            sel = self.selection() if self.peek() == "{" else None
            out.append(
                {"t": "field", "name": name, "alias": alias, "args": args, "dirs": dirs, "sel": sel}
            )
        self.next()
        return out


# --------------------------------------------------------------------------- GraphQL, executing


class Obj:
    """A GraphQL object: data fields in `data`, computed ones as methods f_<field>(**args)."""

    type = "Object"
    ifaces: tuple[str, ...] = ()

    def __init__(self, data: dict | None = None):
        self.data = data or {}

    def has(self, field: str) -> bool:
        return hasattr(self, "f_" + field) or field in self.data

    def get(self, field: str, args: dict) -> Any:
        fn = getattr(self, "f_" + field, None)
        if fn is not None:
            return fn(**args)
        return self.data.get(field)


def T(typename: str, **data: Any) -> Obj:
    o = Obj(data)
    o.type = typename
    return o


_CONCRETE = {"ArtifactSequence", "ArtifactPortfolio", "Run", "User", "Artifact"}


class Executor:
    def __init__(self, unknown: dict[str, int]):
        self.unknown = unknown

    def run(
        self, text: str, op_name: str | None, variables: dict, query: Obj, mutation: Obj
    ) -> tuple[str, dict]:
        ops, frags = _Parser(text).document()
        op = next((o for o in ops if op_name and o["name"] == op_name), ops[0] if ops else None)
        if op is None:
            raise GraphQLError("no operation")
        self.frags = frags
        self.vars = {
            **{k: self._val(v, {}) for k, v in op["vars"].items()},
            **{k: v for k, v in (variables or {}).items() if v is not None or k not in op["vars"]},
        }
        root = mutation if op["op"] == "mutation" else query
        return op["name"] or "anonymous", self._sel(op["sel"], root, op["op"])

    def _val(self, v: Any, variables: dict | None = None) -> Any:
        variables = self.vars if variables is None else variables
        if isinstance(v, Var):
            return variables.get(str(v))
        if isinstance(v, list):
            return [self._val(x, variables) for x in v]
        if isinstance(v, dict):
            return {k: self._val(x, variables) for k, x in v.items()}
        return str(v) if isinstance(v, Enum) else v

    def _keep(self, dirs: list) -> bool:
        for name, args in dirs:
            cond = self._val(args.get("if"))
            if (name == "include" and not cond) or (name == "skip" and cond):
                return False
        return True

    def _applies(self, cond: str | None, obj: Obj) -> bool:
        return cond is None or cond == obj.type or cond in obj.ifaces or cond not in _CONCRETE

    def _sel(self, sel: list, obj: Obj, path: str) -> dict:
        out: dict[str, Any] = {}
        for node in sel:
            if not self._keep(node["dirs"]):
                continue
            if node["t"] == "spread":
                frag = self.frags.get(node["name"])
                if frag is None:
                    raise GraphQLError(f"unknown fragment {node['name']}")
                if self._applies(frag["on"], obj):
                    _merge(out, self._sel(frag["sel"], obj, path))
            elif node["t"] == "inline":
                if self._applies(node["on"], obj):
                    _merge(out, self._sel(node["sel"], obj, path))
            else:
                _merge(out, {node["alias"]: self._field(node, obj, path)})
        return out

    def _field(self, node: dict, obj: Obj, path: str) -> Any:
        name = node["name"]
        if name == "__typename":
            return obj.type
        where = f"{obj.type}.{name}"
        if not obj.has(name):
            self.unknown[where] = self.unknown.get(where, 0) + 1
            return None
        args = {k: self._val(v) for k, v in node["args"].items()}
        return self._complete(obj.get(name, args), node, f"{path}.{name}")

    def _complete(self, val: Any, node: dict, path: str) -> Any:
        if isinstance(val, list):
            return [self._complete(v, node, path) for v in val]
        if node["sel"] is None:
            return None if isinstance(val, Obj) else val
        if isinstance(val, dict):
            val = Obj(val)
        return self._sel(node["sel"], val, path) if isinstance(val, Obj) else None


def _merge(a: dict, b: dict) -> None:
    for k, v in b.items():
        if isinstance(v, dict) and isinstance(a.get(k), dict):
            _merge(a[k], v)
        else:
            a[k] = v


# --------------------------------------------------------------------------- the data

FEATURES = [
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "MARK_RUN_FILES_UPLOADED",
    "FILESTREAM_GZIP",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"


def gid(kind: str, *parts: Any) -> str:
    return base64.b64encode((kind + ":" + ":".join(map(str, parts))).encode()).decode()


def ungid(s: str) -> list[str]:
    try:
        return base64.b64decode(s, validate=True).decode().split(":")
    except ValueError:
        return [s]


def rid(n: int = 8) -> str:
    return "".join(random.SystemRandom().choices(string.ascii_lowercase + string.digits, k=n))


def jloads(s: Any) -> Any:
    if not isinstance(s, (str, bytes)):
        return s
    try:
        return json.loads(s)
    except ValueError:
        return {"__unparsed__": s if isinstance(s, str) else s.decode("utf8", "replace")}


class Store:
    def __init__(self, data: Path, entity: str, base_url: str = ""):
        self.lock = threading.RLock()
        self.dir = Path(data)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.entity = entity
        self.base_url = base_url
        self.projects: dict[tuple[str, str], dict] = {}
        self.runs: dict[tuple[str, str, str], dict] = {}
        self.artifacts: dict[str, dict] = {}
        self.manifests: dict[str, dict] = {}
        self.client_ids: dict[str, str] = {}
        self.sweeps: dict[str, dict] = {}
        self.agents: dict[str, dict] = {}
        self.blobs: dict[str, dict] = {}
        self.views: dict[str, dict] = {}
        self.charts: dict[str, dict] = {}
        self.links: list[dict] = []  # of artifacts to collections of a registry
        self.alerts: list[dict] = []
        self.problems: list[str] = []
        self.ops: dict[str, int] = {}
        self.unknown: dict[str, int] = {}
        self.http: dict[str, int] = {}
        self.mutations: list[dict] = []
        self.faults: list[dict] = []
        self.seq = itertools.count(1)
        self.version = 0

    # -- helpers
    def problem(self, msg: str) -> None:
        self.problems.append(msg)

    def project(self, entity: str | None, name: str | None, create: bool = False) -> dict | None:
        key = (entity or self.entity, name or "uncategorized")
        if key not in self.projects and create:
            self.projects[key] = {
                "entity": key[0],
                "name": key[1],
                "internal_id": len(self.projects) + 1,
                "created_at": now(),
                "description": "",
            }
        return self.projects.get(key)

    def run(self, entity: str | None, project: str | None, name: str | None) -> dict | None:
        return self.runs.get((entity or self.entity, project or "uncategorized", name or ""))

    def run_by_gid(self, gid_: str | None) -> dict | None:
        return next((r for r in self.runs.values() if r["gid"] == gid_), None)

    def blob(self, name: str, **meta: Any) -> str:
        bid = rid(20)
        self.blobs[bid] = {"name": name, "size": None, "md5": None, "uploaded": False, **meta}
        return bid

    def url(self, bid: str) -> str:
        return f"{self.base_url}/__storage__/{bid}"

    def upsert_run(self, i: dict) -> tuple[dict, bool]:
        run = self.run_by_gid(i.get("id")) if i.get("id") else None
        inserted = False
        if run is None:
            entity = i.get("entityName") or self.entity
            project = i.get("modelName") or "uncategorized"
            name = i.get("name") or rid()
            self.project(entity, project, create=True)
            run = self.runs.get((entity, project, name))
            if run is None:
                inserted = True
                n = next(self.seq)
                run = {
                    "gid": gid("Run", "v1", name, project, entity),
                    "entity": entity,
                    "project": project,
                    "run_id": name,
                    "number": n,
                    "display_name": None,
                    "group": None,
                    "job_type": None,
                    "tags": [],
                    "notes": None,
                    "config": {},
                    "config_raw": {},
                    "summary": {},
                    "history": [],
                    "events": [],
                    "console": [],
                    "files": {},
                    "state": "running",
                    "exitcode": None,
                    "sweep": None,
                    "host": None,
                    "program": None,
                    "commit": None,
                    "repo": None,
                    "created_at": now(),
                    "heartbeat_at": now(),
                    "upserts": 0,
                    "completions": 0,
                    "stop_requested": False,
                    "used_artifacts": [],
                    "logged_artifacts": [],
                }
                self.runs[(entity, project, name)] = run
        run["upserts"] += 1
        for src, dst in (
            ("displayName", "display_name"),
            ("groupName", "group"),
            ("jobType", "job_type"),
            ("notes", "notes"),
            ("host", "host"),
            ("jobProgram", "program"),
            ("commit", "commit"),
            ("jobRepo", "repo"),
            ("sweep", "sweep"),
        ):
            if i.get(src) is not None:
                run[dst] = i[src]
        if i.get("tags") is not None:
            run["tags"] = list(i["tags"])
        if i.get("config") is not None:
            raw = jloads(i["config"]) or {}
            run["config_raw"].update(raw)
            run["config"] = {
                k: (v["value"] if isinstance(v, dict) and "value" in v else v)
                for k, v in run["config_raw"].items()
                if k != "_wandb"
            }
        if i.get("summaryMetrics") is not None:
            run["summary"].update(jloads(i["summaryMetrics"]) or {})
        if i.get("state"):
            run["state"] = i["state"]
        elif run["state"] != "running" and i.get("host"):
            run["state"], run["exitcode"] = "running", None  # resumed by a client
            run["resumes"] = run.get("resumes", 0) + 1
        if not run["display_name"]:
            run["display_name"] = f"plain-run-{run['number']}"
        if run["sweep"]:
            sw = self.sweeps.get(run["sweep"])
            if sw is None:
                self.problem(f"run {run['run_id']} names unknown sweep {run['sweep']}")
            elif run["run_id"] not in sw["runs"]:
                sw["runs"].append(run["run_id"])
        return run, inserted

    def file_stream(self, run: dict, body: dict) -> dict:
        run["heartbeat_at"] = now()
        for fname, chunk in (body.get("files") or {}).items():
            content = chunk.get("content")
            content = content if isinstance(content, list) else [content]
            off = int(chunk.get("offset") or 0)
            if fname == "wandb-summary.json":
                for line in content:
                    run["summary"] = jloads(line) or {}
                continue
            kind = {
                "wandb-history.jsonl": "history",
                "wandb-events.jsonl": "events",
                "output.log": "console",
            }.get(fname)
            if kind is None:
                self.problem(f"unknown filestream file {fname}")
                continue
            lines = run[kind]
            if off > len(lines):
                self.problem(
                    f"run {run['run_id']}: {fname} offset {off} leaves a gap after line {len(lines)}"
                )
                lines.extend([None] * (off - len(lines)))
            for k, line in enumerate(content):
                val = line if kind == "console" else jloads(line)
                if off + k < len(lines):
                    lines[off + k] = val
                else:
                    lines.append(val)
        for name in body.get("uploaded") or []:
            self.mark_uploaded(run, name)
        if body.get("preempting"):
            run["state"] = "preempting"
        if body.get("complete"):
            run["completions"] += 1
            run["exitcode"] = body.get("exitcode") or 0
            run["state"] = "finished" if run["exitcode"] == 0 else "failed"
        return {
            "exitcode": run["exitcode"],
            "stopped": bool(run["stop_requested"]),
            "limits": {"fileCount": 1000},
        }

    def mark_uploaded(self, run: dict, name: str) -> None:
        if name in run["files"]:
            run["files"][name]["marked_uploaded"] = True

    def run_file_upload(self, run: dict, name: str) -> str:
        bid = self.blob(name, kind="run_file", run=run["run_id"])
        run["files"][name] = {"blob": bid}
        return self.url(bid)

    def put_blob(self, bid: str, data: bytes) -> bool:
        b = self.blobs.get(bid)
        if b is None:
            return False
        path = self.dir / bid
        path.write_bytes(data)
        md5 = hashlib.md5(data, usedforsecurity=False)
        b.update(
            size=len(data),
            md5=base64.b64encode(md5.digest()).decode(),
            md5_hex=md5.hexdigest(),
            sha256=hashlib.sha256(data).hexdigest(),
            uploaded=True,
            path=str(path),
        )
        want = b.get("want_md5")
        if want and want != b["md5"]:
            self.problem(f"artifact file {b['name']}: md5 {b['md5']} is not the announced {want}")
        if b.get("kind") == "manifest":
            man = self.manifests[b["manifest"]]
            man["content"] = jloads(data)
            man["blob"] = bid
        return True

    # -- artifacts
    def collection(self, entity: str, project: str, name: str) -> list[dict]:
        return [
            a
            for a in self.artifacts.values()
            if (a["entity"], a["project"], a["collection"]) == (entity, project, name)
        ]

    def create_artifact(self, i: dict) -> dict:
        names = i.get("artifactCollectionNames") or []
        coll = i.get("artifactCollectionName") or (names[0] if names else "artifact")
        entity, project = (
            i.get("entityName") or self.entity,
            i.get("projectName") or "uncategorized",
        )
        self.project(entity, project, create=True)
        versions = self.collection(entity, project, coll)
        aliases = [a["alias"] if isinstance(a, dict) else a for a in (i.get("aliases") or [])]
        tags = [t["tagName"] if isinstance(t, dict) else t for t in (i.get("tags") or [])]
        if i.get("enableDigestDeduplication"):
            for a in versions:
                if a["digest"] == i.get("digest") and a["state"] == "COMMITTED":
                    self._alias(a, [*aliases, "latest"])
                    if i.get("clientID"):
                        self.client_ids[i["clientID"]] = a["gid"]
                    a["dedup_hits"] = a.get("dedup_hits", 0) + 1
                    if i.get("runName"):
                        self._record_output(a, i["runName"])
                    return a
        n = next(self.seq)
        art = {
            "gid": gid("Artifact", n),
            "entity": entity,
            "project": project,
            "collection": coll,
            "type": i.get("artifactTypeName"),
            "digest": i.get("digest"),
            "state": "PENDING",
            "description": i.get("description"),
            "metadata": jloads(i.get("metadata")) or {},
            "aliases_wanted": aliases,
            "aliases": [],
            "tags": tags,
            "version": None,
            "created_by": None,
            "logged_by": [],
            "used_by": [],
            "files": {},
            "manifest": None,
            "created_at": now(),
            "history_step": i.get("historyStep"),
            "ttl": i.get("ttlDurationSeconds"),
        }
        self.artifacts[art["gid"]] = art
        if i.get("clientID"):
            self.client_ids[i["clientID"]] = art["gid"]
        if i.get("runName"):
            art["created_by"] = i["runName"]
            self._record_output(art, i["runName"])
        return art

    def _record_output(self, art: dict, run_name: str) -> None:
        if run_name not in art["logged_by"]:
            art["logged_by"].append(run_name)

    def _alias(self, art: dict, aliases: list[str]) -> None:
        for a in aliases:
            for other in self.collection(art["entity"], art["project"], art["collection"]):
                if a in other["aliases"]:
                    other["aliases"].remove(a)
            art["aliases"].append(a)

    def commit(self, art: dict) -> None:
        if art["state"] == "COMMITTED":
            return
        done = [
            a
            for a in self.collection(art["entity"], art["project"], art["collection"])
            if a["state"] == "COMMITTED"
        ]
        art["version"] = len(done)
        art["state"] = "COMMITTED"
        self._alias(art, [*art.pop("aliases_wanted", []), "latest"])
        man = self.manifests.get(art["manifest"] or "", {}).get("content") or {}
        contents = man.get("contents") or {}
        if not man:
            self.problem(f"artifact {art['collection']}: committed without a manifest")
        files: dict[str, dict] = {}
        for name, entry in contents.items():
            blob = None
            if not entry.get("ref"):
                blob = self.find_blob(entry.get("digest"))
                if blob is None:
                    self.problem(
                        f"artifact {art['collection']}:v{art['version']}: no bytes for {name}"
                    )
            files[name] = {
                "digest": entry.get("digest"),
                "size": entry.get("size"),
                "ref": entry.get("ref"),
                "blob": blob,
            }
        art["files"] = files
        for rn in art["logged_by"]:
            r = self.run(art["entity"], art["project"], rn)
            if r is not None:
                r["logged_artifacts"].append(self.art_name(art))

    def find_blob(self, md5_b64: str | None) -> str | None:
        return next(
            (k for k, b in self.blobs.items() if b.get("uploaded") and b.get("md5") == md5_b64),
            None,
        )

    def art_name(self, a: dict) -> str:
        return f"{a['entity']}/{a['project']}/{a['collection']}:v{a['version']}"

    def art_lookup(self, entity: str, project: str, name: str) -> dict | None:
        name = name.split("/")[-1]
        coll, _, alias = name.partition(":")
        alias = alias or "latest"
        for a in self.collection(entity, project, coll):
            if a["state"] == "COMMITTED" and (
                alias in a["aliases"] or alias == f"v{a['version']}" or alias == a["digest"]
            ):
                return a
        return None

    # -- sweeps
    def upsert_sweep(self, i: dict) -> dict:
        sw = None
        if i.get("id"):
            sw = next((s for s in self.sweeps.values() if i["id"] in (s["gid"], s["name"])), None)
        if sw is None:
            import yaml  # comes with wandb

            text = i.get("config") or "{}"
            cfg = yaml.safe_load(text) or {}
            name = rid()
            entity, project = (
                i.get("entityName") or self.entity,
                i.get("projectName") or "uncategorized",
            )
            self.project(entity, project, create=True)
            sw = {
                "gid": gid("Sweep", name),
                "name": name,
                "entity": entity,
                "project": project,
                "config_text": text,
                "config": cfg,
                "state": "PENDING",
                "runs": [],
                "display_name": i.get("displayName"),
                "created_at": now(),
                "issued": 0,
                "plan": None,
            }
            self.sweeps[name] = sw
        elif i.get("config"):
            import yaml

            sw["config_text"], sw["config"], sw["plan"] = (
                i["config"],
                yaml.safe_load(i["config"]) or {},
                None,
            )
        if i.get("state"):
            sw["state"] = i["state"]
        if i.get("displayName"):
            sw["display_name"] = i["displayName"]
        return sw

    def next_sweep_args(self, sw: dict) -> dict | None:
        cfg = sw["config"]
        params = cfg.get("parameters") or {}
        cap = cfg.get("run_cap")
        if cap and sw["issued"] >= int(cap):
            return None
        if cfg.get("method") == "grid":
            if sw["plan"] is None:
                sw["plan"] = _grid(params)
            if sw["issued"] >= len(sw["plan"]):
                return None
            return sw["plan"][sw["issued"]]
        rng = random.Random(f"{sw['name']}-{sw['issued']}")
        return _sample(params, rng)

    def heartbeat(self, agent_id: str, run_state: dict) -> list[dict]:
        ag = self.agents.get(agent_id)
        if ag is None:
            return [{"type": "exit"}]
        sw = self.sweeps[ag["sweep"]]
        ag["heartbeats"] += 1
        active = [r for r, on in (run_state or {}).items() if on]
        if sw["state"] in ("CANCELED", "STOPPED", "FINISHED"):
            return [{"type": "stop", "run_id": r} for r in active] if active else [{"type": "exit"}]
        if active or sw["state"] == "PAUSED":
            return []
        args = self.next_sweep_args(sw)
        if args is None:
            sw["state"] = "FINISHED"
            return [{"type": "exit"}]
        sw["state"], sw["issued"] = "RUNNING", sw["issued"] + 1
        run_id = rid()
        ag["issued"].append({"run_id": run_id, "args": args})
        return [
            {
                "id": rid(),
                "type": "run",
                "run_id": run_id,
                "program": sw["config"].get("program"),
                "args": {k: {"value": v} for k, v in args.items()},
                "logs": [],
            }
        ]

    # -- what the test reads
    def dump(self) -> dict:
        with self.lock:
            runs = []
            for r in self.runs.values():
                q = {k: v for k, v in r.items() if k not in ("config_raw", "gid", "events")}
                q["wandb_meta"] = r["config_raw"].get("_wandb", {}).get("value", {})
                q["metrics_defined"] = _metrics(q["wandb_meta"].get("m") or [])
                q["history_lines"] = len(r["history"])
                q["event_lines"] = len(r["events"])
                q["files"] = {
                    n: {
                        "size": self.blobs[f["blob"]]["size"],
                        "sha256": self.blobs[f["blob"]].get("sha256"),
                        "path": self.blobs[f["blob"]].get("path"),
                        "uploaded": self.blobs[f["blob"]]["uploaded"],
                    }
                    for n, f in r["files"].items()
                }
                runs.append(q)
            arts = []
            for a in self.artifacts.values():
                q = {k: v for k, v in a.items() if k not in ("gid", "aliases_wanted", "manifest")}
                q["name"] = self.art_name(a)
                q["files"] = {
                    n: {
                        **{k: f[k] for k in ("digest", "size", "ref")},
                        "path": self.blobs[f["blob"]].get("path") if f["blob"] else None,
                        "sha256": self.blobs[f["blob"]].get("sha256") if f["blob"] else None,
                    }
                    for n, f in a["files"].items()
                }
                arts.append(q)
            sweeps = [
                {k: v for k, v in s.items() if k not in ("gid", "plan")}
                for s in self.sweeps.values()
            ]
            return copy.deepcopy(
                {
                    "server": {
                        "base_url": self.base_url,
                        "entity": self.entity,
                        "written_at": now(),
                    },
                    "projects": list(self.projects.values()),
                    "runs": runs,
                    "artifacts": arts,
                    "sweeps": sweeps,
                    "agents": [
                        {k: v for k, v in a.items() if k != "gid"} for a in self.agents.values()
                    ],
                    "views": [
                        {k: v for k, v in w.items() if k != "gid"} for w in self.views.values()
                    ],
                    "charts": list(self.charts.values()),
                    "alerts": self.alerts,
                    "links": self.links,
                    "problems": list(self.problems),
                    "graphql_operations": dict(self.ops),
                    "unknown_fields": dict(self.unknown),
                    "http": dict(self.http),
                    "mutations": list(self.mutations),
                }
            )


_SUMMARY = {1: "min", 2: "max", 3: "mean", 4: "best", 5: "last", 6: "none", 7: "copy", 8: "first"}


def _metrics(m: list) -> list[dict]:
    """run.define_metric() calls, out of the client's telemetry-style encoding."""
    names = [x.get("1") or x.get("2") for x in m if isinstance(x, dict)]
    out = []
    for x in m:
        if isinstance(x, dict):
            step = x.get("4") or (
                names[x["5"] - 1]
                if isinstance(x.get("5"), int) and 0 < x["5"] <= len(names)
                else None
            )
            out.append(
                {
                    "name": x.get("1") or x.get("2"),
                    "glob": "2" in x,
                    "step_metric": step,
                    "summary": [_SUMMARY.get(k, k) for k in x.get("7") or []],
                }
            )
    return out


def strict(v: Any) -> Any:
    """NaN and infinities as strings, so the state file is strict JSON."""
    if isinstance(v, float) and not math.isfinite(v):
        return "NaN" if math.isnan(v) else ("Infinity" if v > 0 else "-Infinity")
    if isinstance(v, dict):
        return {str(k): strict(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [strict(x) for x in v]
    return v


def _grid(params: dict) -> list[dict]:
    keys, lists = [], []
    for name, p in params.items():
        p = p if isinstance(p, dict) else {"value": p}
        keys.append(name)
        if "values" in p:
            lists.append(list(p["values"]))
        elif "parameters" in p:
            lists.append(_grid(p["parameters"]))
        elif "value" in p:
            lists.append([p["value"]])
        elif (
            "min" in p
            and "max" in p
            and p.get("distribution") in ("int_uniform", "q_uniform", None)
        ):
            step = p.get("q", 1)
            n = math.floor((p["max"] - p["min"]) / step) + 1
            lists.append([p["min"] + k * step for k in range(n)])
        else:
            raise GraphQLError(f"grid sweep: parameter {name} has no values")
    return [dict(zip(keys, combo, strict=False)) for combo in itertools.product(*lists)]


def _sample(params: dict, rng: random.Random) -> dict:
    out = {}
    for name, p in params.items():
        p = p if isinstance(p, dict) else {"value": p}
        dist = p.get("distribution", "")
        if "values" in p:
            out[name] = rng.choice(list(p["values"]))
        elif "parameters" in p:
            out[name] = _sample(p["parameters"], rng)
        elif "value" in p:
            out[name] = p["value"]
        elif dist.startswith("log_uniform_values"):
            out[name] = math.exp(rng.uniform(math.log(p["min"]), math.log(p["max"])))
        elif dist.startswith("log_uniform"):
            out[name] = math.exp(rng.uniform(p["min"], p["max"]))
        elif dist == "normal":
            out[name] = rng.gauss(p.get("mu", 0), p.get("sigma", 1))
        elif isinstance(p.get("min"), int) and isinstance(p.get("max"), int):
            out[name] = rng.randint(p["min"], p["max"])
        else:
            out[name] = rng.uniform(p.get("min", 0), p.get("max", 1))
    return out


# --------------------------------------------------------------------------- the schema


def connection(
    nodes: list[Obj], after: str | None = None, first: int | None = None, total: int | None = None
) -> Obj:
    start = int(after) if after and str(after).isdigit() else 0
    first = first if first is not None else 10_000
    page = nodes[start : start + first]
    edges = [
        {
            "node": n,
            "cursor": str(start + k + 1),
            **({"version": f"v{n.a['version']}"} if isinstance(n, ArtifactT) else {}),
        }
        for k, n in enumerate(page)
    ]
    info = T(
        "PageInfo", endCursor=str(start + len(page)), hasNextPage=start + len(page) < len(nodes)
    )
    return T(
        "Connection",
        edges=edges,
        totalCount=len(nodes) if total is None else total,
        pageInfo=info,
        nodes=page,
    )


class Schema:
    def __init__(self, st: Store):
        self.st = st

    def user(self) -> Obj:
        o = Obj(
            {
                "id": gid("User", 1),
                "name": self.st.entity,
                "username": self.st.entity,
                "email": "fake@example.invalid",
                "admin": False,
                "flags": "{}",
                "entity": self.st.entity,
                "deletedAt": None,
                "apiKeys": {"edges": []},
                "teams": {"edges": [{"node": {"name": self.st.entity}}]},
            }
        )
        o.type = "User"
        return o

    def entity(self, name: str) -> Obj:
        o = Obj(
            {
                "id": gid("Entity", name),
                "name": name,
                "isTeam": False,
                "organization": T(
                    "Organization",
                    name="fake-org",
                    orgEntity={"name": "fake-org"},
                    coreWeaveOrganizationId=None,
                ),
                "user": None,
                "xxhashDigestsEnabled": False,
            }
        )
        o.type = "Entity"
        return o

    def query(self) -> Obj:
        s = self

        class Query(Obj):
            type = "Query"

            def f_viewer(self, **_):
                return s.user()

            def f_serverInfo(self, **_):
                return {
                    "features": [{"name": f, "isEnabled": True} for f in FEATURES],
                    "cliVersionInfo": {"max_cli_version": "9.9.9", "min_cli_version": "0.0.1"},
                    "latestLocalVersionInfo": {
                        "outOfDate": False,
                        "latestVersionString": "9.9.9",
                        "versionOnThisInstanceString": "9.9.9",
                    },
                }

            def f_entity(self, name=None, **_):
                return s.entity(name or s.st.entity)

            def f_project(self, name=None, entityName=None, **_):
                p = s.st.project(entityName, name)
                return ProjectT(s, p) if p else None

            def f_model(self, name=None, entityName=None, **_):
                return self.f_project(name, entityName)

            def f_models(self, entityName=None, after=None, first=None, **_):
                ps = [
                    ProjectT(s, p)
                    for p in s.st.projects.values()
                    if p["entity"] == (entityName or s.st.entity)
                ]
                return connection(ps, after, first)

            f_projects = f_models

            def f_artifact(self, id=None, **_):
                a = s.st.artifacts.get(id)
                return ArtifactT(s, a) if a else None

            def f_clientIDMapping(self, clientID=None, **_):
                g = s.st.client_ids.get(clientID)
                return {"serverID": g} if g else None

            def f_organization(self, **_):
                return None

            def f_users(self, **_):
                return connection([s.user()])

        return Query()

    def mutation(self) -> Obj:
        s, st = self, self.st

        class Mutation(Obj):
            type = "Mutation"

            def f_upsertBucket(self, input=None, **_):
                run, inserted = st.upsert_run(input)
                return {"bucket": RunT(s, run), "inserted": inserted}

            def f_upsertModel(self, input=None, **_):
                known = st.project(input.get("entityName"), input.get("name")) is not None
                p = st.project(input.get("entityName"), input.get("name"), create=True)
                return {"project": ProjectT(s, p), "model": ProjectT(s, p), "inserted": not known}

            def f_createRunFiles(self, input=None, **_):
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                if run is None:
                    raise GraphQLError(f"run {input.get('runName')} not found")
                return {
                    "runID": run["gid"],
                    "uploadHeaders": [],
                    "files": [
                        {"name": f, "uploadUrl": st.run_file_upload(run, f)}
                        for f in input.get("files") or []
                    ],
                }

            def f_markRunFilesUploaded(self, input=None, **_):
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                for f in input.get("files") or []:
                    if run:
                        st.mark_uploaded(run, f)
                return {"success": run is not None}

            def f_updateRunState(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    run["state"] = input.get("state")
                return {"success": run is not None}

            def f_stopRun(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    run["stop_requested"] = True
                return {"success": run is not None}

            def f_deleteRun(self, input=None, **_):
                run = st.run_by_gid(input.get("id"))
                if run:
                    st.runs.pop((run["entity"], run["project"], run["run_id"]))
                return {"clientMutationId": None, "success": run is not None}

            def f_notifyScriptableRunAlert(self, input=None, **_):
                st.alerts.append(dict(input))
                return {"success": True}

            # artifacts
            def f_createArtifactType(self, input=None, **_):
                return {
                    "artifactType": {
                        "id": gid("ArtifactType", input.get("name")),
                        "name": input.get("name"),
                    }
                }

            def f_createArtifact(self, input=None, **_):
                return {"artifact": ArtifactT(s, st.create_artifact(input))}

            def f_createArtifactManifest(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                mid = gid("ArtifactManifest", next(st.seq))
                bid = st.blob(input.get("name") or "manifest", kind="manifest", manifest=mid)
                st.manifests[mid] = {
                    "artifact": art["gid"],
                    "digest": input.get("digest"),
                    "content": None,
                    "blob": bid,
                }
                art["manifest"] = mid
                return {
                    "artifactManifest": {
                        "id": mid,
                        "file": {
                            "id": gid("File", bid),
                            "uploadUrl": st.url(bid),
                            "uploadHeaders": [],
                        },
                    }
                }

            def f_updateArtifactManifest(self, input=None, **_):
                mid = input.get("artifactManifestID")
                man = st.manifests.get(mid)
                if man is None:
                    raise GraphQLError("manifest not found")
                bid = st.blob("manifest", kind="manifest", manifest=mid)
                return {
                    "artifactManifest": {
                        "id": mid,
                        "file": {
                            "id": gid("File", bid),
                            "uploadUrl": st.url(bid),
                            "uploadHeaders": [],
                        },
                    }
                }

            def f_createArtifactFiles(self, input=None, **_):
                edges = []
                for spec in input.get("artifactFiles") or []:
                    art = st.artifacts.get(spec.get("artifactID"))
                    have = st.find_blob(spec.get("md5"))
                    url = None
                    if have is None:
                        url = st.url(
                            st.blob(
                                spec.get("name"),
                                kind="artifact_file",
                                want_md5=spec.get("md5"),
                                artifact=spec.get("artifactID"),
                            )
                        )
                    edges.append(
                        {
                            "node": {
                                "id": gid("File", spec.get("name")),
                                "name": spec.get("name"),
                                "displayName": spec.get("name"),
                                "storagePath": f"fake/{spec.get('md5')}",
                                "uploadUrl": url,
                                "uploadHeaders": [],
                                "uploadMultipartUrls": None,
                                "artifact": ArtifactT(s, art) if art else None,
                            }
                        }
                    )
                return {"files": {"edges": edges}}

            def f_commitArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                st.commit(art)
                return {"artifact": ArtifactT(s, art)}

            def f_linkArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None or art["state"] != "COMMITTED":
                    raise GraphQLError("artifact not found, or not committed")
                place = [
                    input.get(k) for k in ("entityName", "projectName", "artifactPortfolioName")
                ]
                aliases = [a["alias"] for a in input.get("aliases") or []]
                link = {"to": "/".join(place), "artifact": st.art_name(art), "aliases": aliases}
                if link not in st.links:
                    st.links.append(link)
                return {"versionIndex": 0, "artifactMembership": MembershipT(s, art)}

            def f_useArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                run = st.run(
                    input.get("entityName"), input.get("projectName"), input.get("runName")
                )
                if input.get("runName") not in art["used_by"]:
                    art["used_by"].append(input.get("runName"))
                if run is not None and st.art_name(art) not in run["used_artifacts"]:
                    run["used_artifacts"].append(st.art_name(art))
                return {"artifact": ArtifactT(s, art)}

            def f_updateArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                if art is None:
                    raise GraphQLError("artifact not found")
                if input.get("metadata") is not None:
                    art["metadata"] = jloads(input["metadata"])
                if input.get("description") is not None:
                    art["description"] = input["description"]
                return {"artifact": ArtifactT(s, art)}

            def f_addAliases(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                st._alias(art, [a["alias"] for a in input.get("aliases") or []])
                return {"success": True}

            def f_deleteAliases(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                for a in input.get("aliases") or []:
                    if a["alias"] in art["aliases"]:
                        art["aliases"].remove(a["alias"])
                return {"success": True}

            def f_deleteArtifact(self, input=None, **_):
                art = st.artifacts.get(input.get("artifactID"))
                art["state"] = "DELETED"
                return {"artifact": ArtifactT(s, art)}

            def f_createCustomChart(self, input=None, **_):
                chart = {
                    "id": f"{input['entity']}/{input['name']}",
                    **input,
                    "spec": jloads(input.get("spec")),
                }
                st.charts[chart["id"]] = chart
                return T("CreateCustomChartPayload", chart=T("CustomChart", id=chart["id"]))

            # saved workspaces and reports
            def f_upsertView(self, input=None, **_):
                view = st.views.get(input.get("id") or "") or next(
                    (
                        v
                        for v in st.views.values()
                        if (v["project"], v["name"])
                        == (input.get("projectName"), input.get("name"))
                    ),
                    None,
                )
                inserted = view is None
                if view is None:
                    # a view belongs to a project, which may have no runs yet
                    st.project(input.get("entityName"), input.get("projectName"), create=True)
                    vid = gid("View", next(st.seq))
                    view = {
                        "gid": vid,
                        "entity": input.get("entityName") or st.entity,
                        "project": input.get("projectName"),
                        "name": input.get("name"),
                        "type": input.get("type"),
                        "display_name": None,
                        "spec": None,
                        "saves": 0,
                    }
                    st.views[vid] = view
                view["saves"] += 1
                if input.get("displayName") is not None:
                    view["display_name"] = input["displayName"]
                if input.get("spec") is not None:
                    view["spec"] = jloads(input["spec"])
                return {"view": ViewT(s, view), "inserted": inserted}

            def f_deleteView(self, input=None, **_):
                st.views.pop(input.get("id"), None)
                return {"success": True, "pendingRequest": None}

            # sweeps
            def f_upsertSweep(self, input=None, **_):
                return {"sweep": SweepT(s, st.upsert_sweep(input)), "configValidationWarnings": []}

            def f_createAgent(self, input=None, **_):
                if input.get("sweep") not in st.sweeps:
                    raise GraphQLError(f"sweep {input.get('sweep')} not found")
                name = rid()
                st.agents[name] = {
                    "gid": name,
                    "name": name,
                    "sweep": input["sweep"],
                    "host": input.get("host"),
                    "heartbeats": 0,
                    "issued": [],
                }
                return {"agent": {"id": name, "name": name}}

            def f_agentHeartbeat(self, input=None, **_):
                cmds = st.heartbeat(input.get("id"), jloads(input.get("runState")) or {})
                return {"agent": {"id": input.get("id")}, "commands": json.dumps(cmds)}

        return Mutation()


class ProjectT(Obj):
    type = "Project"

    def __init__(self, s: Schema, p: dict):
        self.s, self.st, self.p = s, s.st, p
        super().__init__(
            {
                "id": gid("Project", p["name"], p["entity"]),
                "internalId": str(p["internal_id"]),
                "name": p["name"],
                "entityName": p["entity"],
                "createdAt": p["created_at"],
                "isBenchmark": False,
                "readOnly": False,
                "description": "",
                "access": "PRIVATE",
                "views": "{}",
            }
        )

    def _runs(self, filters=None, order=None):
        rs = [
            r
            for r in self.st.runs.values()
            if (r["entity"], r["project"]) == (self.p["entity"], self.p["name"])
        ]
        rs = [r for r in rs if match(r, jloads(filters) or {})]
        key = order or "+created_at"
        rev, name = key.startswith("-"), key.lstrip("+-")
        rs.sort(
            key=lambda r: _sort_key(lookup(r, name) if name != "created_at" else r["number"]),
            reverse=rev,
        )
        return rs

    def f_entity(self, **_):
        return self.s.entity(self.p["entity"])

    def f_user(self, **_):
        return self.s.user()

    def f_run(self, name=None, **_):
        r = self.st.run(self.p["entity"], self.p["name"], name)
        return RunT(self.s, r) if r else None

    def f_bucket(self, name=None, missingOk=None, **_):
        return self.f_run(name)

    def f_runCount(self, filters=None, **_):
        return len(self._runs(filters))

    def f_runs(self, filters=None, after=None, first=None, order=None, **_):
        return connection([RunT(self.s, r) for r in self._runs(filters, order)], after, first)

    def f_artifact(self, name=None, **_):
        a = self.st.art_lookup(self.p["entity"], self.p["name"], name or "")
        return ArtifactT(self.s, a) if a else None

    def f_artifactCollectionMembership(self, name=None, **_):
        a = self.st.art_lookup(self.p["entity"], self.p["name"], name or "")
        return MembershipT(self.s, a) if a else None

    def f_artifactCollection(self, name=None, **_):
        if not self.st.collection(self.p["entity"], self.p["name"], name):
            return None
        return CollectionT(self.s, self.p, name)

    def _types(self):
        return sorted(
            {
                a["type"]
                for a in self.st.artifacts.values()
                if (a["entity"], a["project"]) == (self.p["entity"], self.p["name"])
            }
        )

    def f_artifactTypes(self, after=None, first=None, **_):
        return connection([ArtifactTypeT(self.s, self.p, t) for t in self._types()], after, first)

    def f_artifactType(self, name=None, **_):
        return ArtifactTypeT(self.s, self.p, name) if name in self._types() else None

    def f_sweep(self, sweepName=None, **_):
        sw = self.st.sweeps.get(sweepName) or next(
            (x for x in self.st.sweeps.values() if x["gid"] == sweepName), None
        )
        return SweepT(self.s, sw) if sw else None

    def f_allViews(self, viewType=None, viewName=None, after=None, first=None, **_):
        vs = [
            v
            for v in self.st.views.values()
            if v["project"] == self.p["name"]
            and (not viewName or v["name"] == viewName)
            and (not viewType or v["type"] == viewType)
        ]
        return connection([ViewT(self.s, v) for v in vs], after, first)

    def f_totalSweeps(self, **_):
        return len(self.st.sweeps)

    def f_sweeps(self, after=None, first=None, **_):
        return connection([SweepT(self.s, x) for x in self.st.sweeps.values()], after, first)


class RunT(Obj):
    type = "Run"

    def __init__(self, s: Schema, r: dict):
        self.s, self.st, self.r = s, s.st, r
        super().__init__(
            {
                "id": r["gid"],
                "name": r["run_id"],
                "displayName": r["display_name"],
                "description": None,
                "config": json.dumps(r["config_raw"]),
                "sweepName": r["sweep"],
                "state": r["state"],
                "tags": r["tags"],
                "group": r["group"],
                "jobType": r["job_type"],
                "notes": r["notes"],
                "commit": r["commit"],
                "readOnly": False,
                "createdAt": r["created_at"],
                "heartbeatAt": r["heartbeat_at"],
                "summaryMetrics": json.dumps(r["summary"]),
                "systemMetrics": json.dumps(r["events"][-1] if r["events"] else {}),
                "historyLineCount": len(r["history"]),
                "eventsLineCount": len(r["events"]),
                "logLineCount": len(r["console"]),
                "exitcode": r["exitcode"],
                "stopped": r["stop_requested"],
                "shouldStop": r["stop_requested"],
                "running": r["state"] == "running",
                "failed": r["state"] == "failed",
                "fileCount": len(r["files"]),
                "host": r["host"],
                "historyTail": json.dumps([json.dumps(x) for x in r["history"][-1:]]),
                "eventsTail": json.dumps([json.dumps(x) for x in r["events"][-1:]]),
                "projectId": "1",
                "historyKeys": self._keys(r),
            }
        )

    @staticmethod
    def _keys(r: dict) -> dict:
        keys: dict[str, dict] = {}
        for line in r["history"]:
            for k, v in _flat(line or {}).items():
                e = keys.setdefault(
                    k,
                    {
                        "typeCounts": [
                            {
                                "type": "number" if isinstance(v, (int, float)) else "string",
                                "count": 0,
                            }
                        ]
                    },
                )
                e["typeCounts"][0]["count"] += 1
                e["monotonic"] = e.get("monotonic", True) and not (
                    isinstance(v, (int, float)) and v < e.get("previousValue", v)
                )
                if isinstance(v, (int, float)):
                    e["previousValue"] = v
        last = r["history"][-1].get("_step", -1) if r["history"] and r["history"][-1] else -1
        return {"keys": keys, "lastStep": last, "sets": []}

    def f_wandbConfig(self, keys=None, **_):
        raw = self.r["config_raw"].get("_wandb", {}).get("value", {})
        return json.dumps({k: raw.get(k) for k in (keys or []) if k in raw})

    def f_project(self, **_):
        return ProjectT(self.s, self.st.project(self.r["entity"], self.r["project"]))

    def f_user(self, **_):
        return self.s.user()

    def f_sweep(self, **_):
        sw = self.st.sweeps.get(self.r["sweep"] or "")
        return SweepT(self.s, sw) if sw else None

    def f_history(self, samples=None, minStep=None, maxStep=None, **_):
        rows = [x for x in self.r["history"] if x is not None]
        if minStep is not None:
            rows = [
                x
                for x in rows
                if minStep <= x.get("_step", 0) < (maxStep if maxStep is not None else 1 << 62)
            ]
        return [json.dumps(x) for x in _thin(rows, samples if minStep is None else None)]

    def f_events(self, samples=None, **_):
        return [json.dumps(x) for x in _thin(self.r["events"], samples)]

    def f_sampledHistory(self, specs=None, **_):
        out = []
        for spec in specs or []:
            spec = jloads(spec) or {}
            keys = spec.get("keys") or []
            rows = [x for x in self.r["history"] if x is not None and all(k in x for k in keys)]
            if spec.get("minStep") is not None:
                rows = [
                    x
                    for x in rows
                    if spec["minStep"] <= x.get("_step", 0) < spec.get("maxStep", 1 << 62)
                ]
            out.append(
                [{k: x[k] for k in keys} if keys else x for x in _thin(rows, spec.get("samples"))]
            )
        return out

    def f_parquetHistory(self, liveKeys=None, **_):
        return {"parquetUrls": [], "liveData": [x for x in self.r["history"] if x is not None]}

    def f_files(self, names=None, after=None, first=None, pattern=None, **_):
        fs = []
        names = [posixpath.normpath(n) for n in names or []]
        for n, f in self.r["files"].items():
            b = self.st.blobs[f["blob"]]
            if (names and n not in names) or not b["uploaded"]:
                continue
            if pattern and not re.fullmatch(re.escape(pattern).replace("%", ".*"), n):
                continue
            o = T(
                "File",
                **{
                    "id": gid("File", f["blob"]),
                    "name": n,
                    "displayName": n,
                    "url": self.st.url(f["blob"]),
                    "directUrl": self.st.url(f["blob"]),
                    "sizeBytes": b["size"] or 0,
                    "mimetype": "application/octet-stream",
                    "updatedAt": now(),
                    "md5": b["md5"],
                    "digest": b["md5"],
                    "storagePath": "",
                },
            )
            fs.append(o)
        return connection(fs, after, first)

    def f_outputArtifacts(self, after=None, first=None, **_):
        arts = [
            ArtifactT(self.s, a)
            for a in self.st.artifacts.values()
            if self.r["run_id"] in a["logged_by"]
            and a["state"] == "COMMITTED"
            and a["project"] == self.r["project"]
        ]
        return connection(arts, after, first)

    def f_inputArtifacts(self, after=None, first=None, **_):
        arts = [
            ArtifactT(self.s, a)
            for a in self.st.artifacts.values()
            if self.r["run_id"] in a["used_by"]
        ]
        return connection(arts, after, first)

    def f_logLines(self, first=None, after=None, last=None, **_):
        rows = [
            Obj({"number": i, "timestamp": "", "level": "info", "label": "", "line": l})
            for i, l in enumerate(self.r["console"])
        ]
        if last:
            return connection(rows[-int(last) :])
        return connection(rows, after, first)


class ArtifactTypeT(Obj):
    type = "ArtifactType"

    def __init__(self, s, p, name):
        self.s, self.p, self.name = s, p, name
        super().__init__(
            {
                "id": gid("ArtifactType", name),
                "name": name,
                "description": None,
                "createdAt": p["created_at"],
            }
        )

    def _names(self):
        return sorted(
            {
                a["collection"]
                for a in self.s.st.artifacts.values()
                if (a["entity"], a["project"], a["type"])
                == (self.p["entity"], self.p["name"], self.name)
            }
        )

    def f_artifactCollections(self, after=None, first=None, **_):
        return connection([CollectionT(self.s, self.p, n) for n in self._names()], after, first)

    def f_artifactCollection(self, name=None, **_):
        return CollectionT(self.s, self.p, name) if name in self._names() else None


class CollectionT(Obj):
    type = "ArtifactSequence"
    ifaces = ("ArtifactCollection",)

    def __init__(self, s, p, name):
        self.s, self.st, self.p, self.name = s, s.st, p, name
        super().__init__(
            {
                "id": gid("ArtifactSequence", p["entity"], p["name"], name),
                "name": name,
                "description": None,
                "createdAt": p["created_at"],
                "updatedAt": p["created_at"],
                "digestAlgorithm": "MANIFEST_MD5",
                "state": "READY",
                "tags": {"edges": []},
            }
        )

    def _versions(self):
        return [
            a
            for a in self.st.collection(self.p["entity"], self.p["name"], self.name)
            if a["state"] == "COMMITTED"
        ]

    def f_project(self, **_):
        return ProjectT(self.s, self.p)

    def f_latestArtifact(self, **_):
        vs = self._versions()
        return ArtifactT(self.s, vs[-1]) if vs else None

    def f_defaultArtifactType(self, **_):
        vs = self.st.collection(self.p["entity"], self.p["name"], self.name)
        return ArtifactTypeT(self.s, self.p, vs[0]["type"]) if vs else None

    f_type = f_defaultArtifactType

    def f_artifactMembership(self, aliasName=None, **_):
        a = self.st.art_lookup(
            self.p["entity"], self.p["name"], f"{self.name}:{aliasName or 'latest'}"
        )
        return MembershipT(self.s, a) if a else None

    def f_artifacts(self, after=None, first=None, **_):
        return connection([ArtifactT(self.s, a) for a in reversed(self._versions())], after, first)

    def f_aliases(self, after=None, first=None, **_):
        return connection(
            [
                T("ArtifactAlias", id=gid("Alias", x), alias=x)
                for a in self._versions()
                for x in a["aliases"]
            ],
            after,
            first,
        )


class MembershipT(Obj):
    type = "ArtifactCollectionMembership"

    def __init__(self, s, a):
        self.s, self.a = s, a
        super().__init__(
            {
                "id": gid("Membership", a["gid"]),
                "versionIndex": a["version"],
                "createdAt": a["created_at"],
                "aliases": [T("ArtifactAlias", id=gid("Alias", x), alias=x) for x in a["aliases"]],
            }
        )

    def f_artifact(self, **_):
        return ArtifactT(self.s, self.a)

    def f_artifactCollection(self, **_):
        return CollectionT(
            self.s, self.s.st.project(self.a["entity"], self.a["project"]), self.a["collection"]
        )

    def f_files(self, **kw):
        return ArtifactT(self.s, self.a).f_files(**kw)


class ArtifactT(Obj):
    type = "Artifact"

    def __init__(self, s: Schema, a: dict):
        self.s, self.st, self.a = s, s.st, a
        files = a["files"]
        super().__init__(
            {
                "id": a["gid"],
                "state": a["state"],
                "digest": a["digest"],
                "digestAlgorithm": "MANIFEST_MD5",
                "versionIndex": a["version"],
                "description": a["description"],
                "metadata": json.dumps(a["metadata"]),
                "ttlDurationSeconds": -2,
                "ttlIsInherited": False,
                "tags": [T("Tag", id=gid("Tag", t), name=t) for t in a["tags"]],
                "historyStep": a["history_step"],
                "size": str(sum(f["size"] or 0 for f in files.values())),
                "fileCount": len(files),
                "commitHash": a["digest"],
                "createdAt": a["created_at"],
                "updatedAt": a["created_at"],
            }
        )

    def _proj(self):
        return self.st.project(self.a["entity"], self.a["project"])

    def f_artifactSequence(self, **_):
        return CollectionT(self.s, self._proj(), self.a["collection"])

    def f_artifactType(self, **_):
        return ArtifactTypeT(self.s, self._proj(), self.a["type"])

    def f_aliases(self, **_):
        out = []
        for x in self.a["aliases"]:
            out.append(
                T(
                    "ArtifactAlias",
                    id=gid("Alias", x),
                    alias=x,
                    artifactCollectionName=self.a["collection"],
                    artifactCollection=CollectionT(self.s, self._proj(), self.a["collection"]),
                )
            )
        return out

    def f_createdBy(self, **_):
        r = self.st.run(self.a["entity"], self.a["project"], self.a["created_by"])
        return RunT(self.s, r) if r else None

    def f_usedBy(self, **_):
        rs = [self.st.run(self.a["entity"], self.a["project"], n) for n in self.a["used_by"]]
        return connection([RunT(self.s, r) for r in rs if r])

    def f_currentManifest(self, **_):
        man = self.st.manifests.get(self.a["manifest"] or "")
        if not man:
            return None
        return {
            "id": self.a["manifest"],
            "file": {"id": gid("File", man["blob"]), "directUrl": self.st.url(man["blob"])},
        }

    def f_artifactMemberships(self, **_):
        return connection([MembershipT(self.s, self.a)])

    def f_files(self, names=None, after=None, first=None, **_):
        out = []
        for n, f in self.a["files"].items():
            if names and n not in names:
                continue
            # a reference has no bytes here
            url = self.st.url(f["blob"]) if f["blob"] else (f["ref"] or "")
            out.append(
                T(
                    "File",
                    **{
                        "id": gid("File", n),
                        "name": n,
                        "displayName": n,
                        "url": url,
                        "directUrl": url,
                        "sizeBytes": f["size"] or 0,
                        "storagePath": "",
                        "mimetype": "application/octet-stream",
                        "updatedAt": self.a["created_at"],
                        "digest": f["digest"],
                        "md5": f["digest"],
                    },
                )
            )
        return connection(out, after, first)

    def f_filesByManifestEntries(self, entries=None, **_):
        names = [e.get("name") for e in entries or []]
        return self.f_files(names=names)


class ViewT(Obj):
    type = "View"

    def __init__(self, s: Schema, v: dict):
        self.s, self.v = s, v
        super().__init__(
            {
                "id": v["gid"],
                "name": v["name"],
                "displayName": v["display_name"],
                "type": v["type"],
                "description": "",
                "spec": json.dumps(v["spec"]),
                "updatedAt": now(),
                "createdAt": now(),
                "previewUrl": None,
                "viewCount": 0,
            }
        )

    def f_project(self, **_):
        return ProjectT(self.s, self.s.st.project(self.v["entity"], self.v["project"], create=True))

    def f_user(self, **_):
        return self.s.user()


class SweepT(Obj):
    type = "Sweep"

    def __init__(self, s: Schema, sw: dict):
        self.s, self.st, self.sw = s, s.st, sw
        super().__init__(
            {
                "id": sw["gid"],
                "name": sw["name"],
                "displayName": sw["display_name"],
                "method": sw["config"].get("method"),
                "state": sw["state"],
                "description": None,
                "config": sw["config_text"],
                "createdAt": sw["created_at"],
                "heartbeatAt": now(),
                "updatedAt": now(),
                "earlyStopJobRunning": False,
                "controller": None,
                "scheduler": None,
                "bestLoss": None,
                "runCount": len(sw["runs"]),
                "runCountExpected": None,
                "controllerRunName": None,
            }
        )

    def f_project(self, **_):
        return ProjectT(self.s, self.st.project(self.sw["entity"], self.sw["project"]))

    def _runs(self):
        rs = [self.st.run(self.sw["entity"], self.sw["project"], n) for n in self.sw["runs"]]
        return [RunT(self.s, r) for r in rs if r]

    def f_runs(self, after=None, first=None, **_):
        return connection(self._runs(), after, first)

    def f_agents(self, **_):
        return connection(
            [
                Obj(
                    {
                        "id": a["name"],
                        "name": a["name"],
                        "host": a["host"],
                        "state": "RUNNING",
                        "totalRuns": len(a["issued"]),
                        "createdAt": now(),
                        "heartbeatAt": now(),
                    }
                )
                for a in self.st.agents.values()
                if a["sweep"] == self.sw["name"]
            ]
        )


def _flat(d: dict, prefix: str = "") -> dict:
    out: dict[str, Any] = {}
    for k, v in d.items():
        if isinstance(v, dict) and "_type" not in v:
            out.update(_flat(v, f"{prefix}{k}."))
        else:
            out[prefix + k] = v
    return out


def _thin(rows: list, n: int | None) -> list:
    if not n or len(rows) <= n:
        return rows
    step = len(rows) / n
    return [rows[int(k * step)] for k in range(n)]


def _sort_key(v: Any) -> tuple:
    if v is None:
        return (0, 0, "")
    return (1, v, "") if isinstance(v, (int, float)) and not isinstance(v, bool) else (2, 0, str(v))


def lookup(run: dict, name: str) -> Any:
    """A field of a run by the name the public API's filters use."""
    plain = {
        "group": "group",
        "jobType": "job_type",
        "job_type": "job_type",
        "state": "state",
        "name": "run_id",
        "display_name": "display_name",
        "displayName": "display_name",
        "sweep": "sweep",
        "tags": "tags",
        "created_at": "created_at",
        "createdAt": "created_at",
        "heartbeat_at": "heartbeat_at",
    }
    if name in plain:
        return run[plain[name]]
    root, _, rest = name.partition(".")
    if root == "config":
        cur: Any = run["config_raw"]
    elif root in ("summary_metrics", "summaryMetrics", "summary"):
        cur = run["summary"]
    else:
        return None
    if isinstance(cur, dict) and rest in cur:  # keys with dots or slashes, e.g. val/acc
        return cur[rest]
    for part in rest.split("."):
        if not isinstance(cur, dict):
            return None
        if part in cur:
            cur = cur[part]
        elif "value" in cur and isinstance(cur["value"], dict) and part in cur["value"]:
            cur = cur["value"][part]
        else:
            return None
    if root == "config" and isinstance(cur, dict) and set(cur) <= {"value", "desc"}:
        cur = cur.get("value")
    return cur


def match(run: dict, flt: dict) -> bool:
    """The MongoDB-style filters of wandb.Api().runs(filters=...)."""
    for key, want in flt.items():
        if key == "$and":
            if not all(match(run, f) for f in want):
                return False
        elif key == "$or":
            if want and not any(match(run, f) for f in want):
                return False
        elif key == "$not":
            if match(run, want):
                return False
        else:
            have = lookup(run, key)
            if not isinstance(want, dict):
                want = {"$eq": want}
            for op, val in want.items():
                if isinstance(have, list) and op in ("$eq", "$ne"):
                    ok = (val in have or have == val) == (op == "$eq")
                elif op == "$eq":
                    ok = have == val
                elif op == "$ne":
                    ok = have != val
                elif op == "$in":
                    ok = any(h in val for h in have) if isinstance(have, list) else have in val
                elif op == "$nin":
                    ok = not (
                        any(h in val for h in have) if isinstance(have, list) else have in val
                    )
                elif op == "$exists":
                    ok = (have is not None) == bool(val)
                elif op == "$regex":
                    ok = have is not None and re.search(val, str(have)) is not None
                elif op in ("$gt", "$gte", "$lt", "$lte"):
                    ok = (
                        isinstance(have, (int, float, str))
                        and {
                            "$gt": have > val,
                            "$gte": have >= val,
                            "$lt": have < val,
                            "$lte": have <= val,
                        }[op]
                    )
                else:
                    ok = False
                if not ok:
                    return False
    return True


# --------------------------------------------------------------------------- HTTP


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


# the shape the client accepts for a self-hosted server; a dummy, not a secret
API_KEY = "local-" + "0" * 40


def client_env(base_url: str, entity: str | None = None, api_key: str = API_KEY) -> dict[str, str]:
    env = {
        "WANDB_BASE_URL": base_url,
        "WANDB_API_KEY": api_key,
        "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if entity:
        env["WANDB_ENTITY"] = entity
    return env


class FakeWandb(contextlib.AbstractContextManager):
    """In-process server for tests."""

    def __init__(
        self,
        where: str | os.PathLike,
        entity: str = "fake-team",
        api_key: str | None = None,
        port: int = 0,
    ):
        self.where = Path(where)
        self.where.mkdir(parents=True, exist_ok=True)
        self.server = Server(port, self.where / "blobs", self.where / "state.json", entity, api_key)
        self.entity = entity
        self.key = api_key or API_KEY

    @property
    def base_url(self) -> str:
        return self.server.base_url

    def __enter__(self) -> FakeWandb:
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()
        return self

    def __exit__(self, *a) -> None:
        self.server.close()
        self.thread.join(5)

    def env(self) -> dict[str, str]:
        return client_env(self.base_url, None, self.key)

    def state(self) -> dict:
        return json.loads(json.dumps(strict(self.server.store.dump()), default=str))

    def fault(self, match: str, **kw: Any) -> None:
        with self.server.store.lock:
            self.server.store.faults.append({"match": match, "times": 1, **kw})

    def stop(self, run_id: str) -> None:
        """Press the dashboard's "Stop run"."""
        with self.server.store.lock:
            for run in self.server.store.runs.values():
                run["stop_requested"] |= run["run_id"] == run_id
