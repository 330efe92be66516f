"""GraphQL's types: projects, runs, artifacts, views and sweeps as objects with fields."""

from __future__ import annotations

import json
import posixpath
import re
from typing import TYPE_CHECKING, Any

from wandb_server.filters import lookup, match
from wandb_server.graphql import Obj, T
from wandb_server.records import gid, jloads, now

if TYPE_CHECKING:
    from wandb_server.schema import Schema


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
