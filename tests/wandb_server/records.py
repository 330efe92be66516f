"""What the server has received: projects, runs, files, artifacts, sweeps and views."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import math
import random
import string
import threading
import time
from pathlib import Path
from typing import Any

from wandb_server.sweep_search import grid, sample

FEATURES = [
    "LARGE_FILENAMES", "ARTIFACT_TAGS", "CLIENT_IDS", "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION", "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION", "MARK_RUN_FILES_UPLOADED", "FILESTREAM_GZIP",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
]  # fmt: skip


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
                sw["plan"] = grid(params)
            if sw["issued"] >= len(sw["plan"]):
                return None
            return sw["plan"][sw["issued"]]
        rng = random.Random(f"{sw['name']}-{sw['issued']}")
        return sample(params, rng)

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
